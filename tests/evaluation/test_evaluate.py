"""Evaluation by generating: rows and references, the file of predictions, interruptions, `fit`."""

import sys

import keras
import numpy as np
import pytest
from evaluated import DATA, EXACT, Upper, lines
from preprocessors import random_image
from tasks import tiny_task
from tiny_models import SMALL_CONFIG

from keras_t5gemma2 import EvaluateGeneration, evaluate_generation

# With a stand-in for the model


@pytest.mark.once
def test_metrics_of_all_rows_in_the_order_of_the_data():
    result = evaluate_generation(Upper(), DATA, verbose=0)
    assert result.predictions == ["AAAA", "B", "CC", "DDD", "E"]
    assert list(result) == ["exact_match", "chrf", "bleu", "rouge1", "rouge2", "rougeL", "anls"]
    assert (result["exact_match"], result["anls"], result.rows) == (80.0, 100.0, 5)
    assert result.base is None


@pytest.mark.once
def test_what_an_interruption_leaves_is_not_of_one_length():
    texts = ["a" * (1 + n % 50) for n in range(200)]
    data = {"encoder_text": texts, "decoder_text": texts}
    result = interrupted(Upper(batches=24), data, batch_size=4)
    lengths = [len(text) for text in result.predictions if text is not None]
    assert (len(lengths), min(lengths), max(lengths)) == (96, 1, 50)


@pytest.mark.once
def test_one_row():
    result = evaluate_generation(Upper(), {"encoder_text": "a", "decoder_text": "A"}, verbose=0)
    assert (result.rows, result["exact_match"], result["chrf"]) == (1, 100.0, 100.0)
    several = {"encoder_text": ["a"], "decoder_text": [["b", "A"]]}
    assert evaluate_generation(Upper(), several, **EXACT) == {"exact_match": 100.0}


@pytest.mark.once
def test_prompts_of_the_decoder_and_options_of_generate():
    data = {**DATA, "decoder_prompt": ["1", "2", "3", "4", "5"]}
    result = evaluate_generation(Upper(), data, mark="!", **EXACT)
    assert result.predictions == ["1AAAA!", "2B!", "3CC!", "4DDD!", "5E!"]


@pytest.mark.once
def test_normalize_holds_for_predictions_and_references(tmp_path):
    path = tmp_path / "predictions.jsonl"
    result = evaluate_generation(Upper(), DATA, normalize=str.lower, predictions_path=path, **EXACT)
    assert result == {"exact_match": 100.0}
    assert {line["exact"] for line in lines(path)} == {True}
    assert result.predictions[0] == lines(path)[-1]["prediction"] == "AAAA"


@pytest.mark.once
@pytest.mark.parametrize("as_function", [True, False])
def test_table_with_a_base_model(as_function):
    def same(rows, strip_prompt):
        return [row.encoder_text for row in rows]

    base = same if as_function else Upper()
    result = evaluate_generation(Upper(), DATA, base=base, verbose=0, metrics=["exact_match"])
    want = "20.0" if as_function else "80.0"
    assert result.base == {"exact_match": float(want)}
    assert str(result) == "\n".join(
        [
            "       rows  exact_match",
            "model     5         80.0",
            f"base      5         {want}",
        ]
    )


# Interruptions


def interrupted(lm, data=DATA, **options):
    with pytest.warns(UserWarning, match="Interrupted after"):
        return evaluate_generation(lm, data, on_interrupt="return", **EXACT, **options)


@pytest.mark.once
def test_an_interruption_keeps_what_was_done(tmp_path):
    path = tmp_path / "predictions.jsonl"
    result = interrupted(Upper(batches=2), batch_size=2, base=Upper(), predictions_path=path)
    assert result.predictions == [None, "B", "CC", "DDD", "E"]
    assert (result, result.rows) == ({"exact_match": 75.0}, 4)
    assert (result.base, result.base.rows) == ({"exact_match": 75.0}, 4)
    assert [line["index"] for line in lines(path)] == [1, 4, 2, 3]


@pytest.mark.once
def test_an_interruption_within_a_batch_leaves_it_out(tmp_path):
    """The model has done three batches and the base model two."""
    path = tmp_path / "predictions.jsonl"
    result = interrupted(Upper(), batch_size=2, base=Upper(batches=2), predictions_path=path)
    assert result.rows == result.base.rows == len(lines(path)) == 4


@pytest.mark.once
def test_an_interruption_stops_a_script_and_not_a_notebook(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    with pytest.raises(KeyboardInterrupt) as raised:
        evaluate_generation(Upper(batches=1), DATA, batch_size=2, **EXACT)
    assert raised.value.__notes__ == [
        "Interrupted after 2 of 5 rows\n       rows  exact_match\nmodel     2        100.0"
    ]
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.warns(UserWarning, match="after 2 of 5 rows"):
        assert evaluate_generation(Upper(batches=1), DATA, batch_size=2, **EXACT).rows == 2


@pytest.mark.once
def test_an_interruption_before_the_first_batch_raises():
    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(Upper(batches=0), DATA, on_interrupt="return", **EXACT)


# Errors


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"metrics": ["accuracy"]}, r"metrics=\['accuracy'\]"),
        ({"on_interrupt": "stop"}, "on_interrupt='stop'"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(*value),
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_generation(Upper(), DATA, **{**EXACT, **options})
    with pytest.raises(TypeError, match="Received: <class 'list'>"):
        evaluate_generation(Upper(), ["a"], **EXACT)


# With a model


TEXTS = ["the cat", "is this a dog", "what is in"]


@pytest.fixture(scope="module")
def lm():
    lm = tiny_task(config=SMALL_CONFIG)
    lm.compile(sampler="greedy", optimizer=keras.optimizers.Adam(0.01))
    return lm


@pytest.mark.once
def test_predictions_are_what_generate_gives(lm):
    want = lm.generate(TEXTS, max_new_tokens=4)
    data = {"encoder_text": TEXTS, "decoder_text": [want[0], ["no", want[1]], "another"]}
    result = evaluate_generation(lm, data, max_new_tokens=4, base=lm, verbose=0)
    assert result.predictions == result.base.predictions == want
    np.testing.assert_allclose(result["exact_match"], 200 / 3)


@pytest.mark.once
def test_images_and_prompts_with_a_model():
    """Images are part of the input, and prompts no part of the prediction."""
    lm = tiny_task()
    inputs = {
        "encoder_text": ["the cat", "<start_of_image> is this a dog", "what is in"],
        "images": [None, random_image(9, 8), []],
    }
    prompts = ["a", "the", "is"]
    want = lm.generate({**inputs, "decoder_text": prompts}, max_new_tokens=4, strip_prompt=True)
    data = {**inputs, "decoder_prompt": prompts, "decoder_text": want}
    result = evaluate_generation(lm, data, max_new_tokens=4, **EXACT)
    assert (result.predictions, result["exact_match"]) == (want, 100.0)
    data["images"] = [None, None, None]
    with pytest.raises(ValueError, match="row 1: 1 of them and 0 images"):
        evaluate_generation(lm, data, max_new_tokens=4, **EXACT)


# In `fit`


@pytest.mark.once
def test_fit_logs_what_the_weights_of_each_epoch_generate(lm, tmp_path):
    """The weights are those of the moment, also where the backend keeps them elsewhere."""
    rows = {"encoder_text": TEXTS, "decoder_text": ["dog dog", "dog", "dog dog dog"]}
    before = lm.generate(TEXTS, max_new_tokens=4)
    evaluation = EvaluateGeneration(
        rows,
        metrics=["exact_match", "anls"],
        max_new_tokens=4,
        predictions_path=tmp_path / "after_{epoch}.jsonl",
    )
    history = lm.fit(rows, batch_size=3, epochs=2, verbose=0, callbacks=[evaluation]).history
    after = lm.generate(TEXTS, max_new_tokens=4)
    results = evaluation.results
    assert list(results) == [0, 1, 2]
    assert (results[0].predictions, results[2].predictions) == (before, after)
    assert len({str(result.predictions) for result in results.values()}) == 3
    for name in ("exact_match", "anls"):
        assert history[f"val_{name}"] == [results[1][name], results[2][name]]
    assert results[2].base is results[0]
    assert [len(lines(tmp_path / f"after_{n}.jsonl")) for n in range(3)] == [3, 3, 3]


class Epochs(keras.callbacks.Callback):
    """What later callbacks see in the logs of each epoch."""

    def on_train_begin(self, logs=None):
        self.names = []

    def on_epoch_end(self, epoch, logs=None):
        self.names.append(sorted(logs))


def fit_stand_in(callback, epochs, begin=0):
    """The callbacks of a `fit` without its model."""
    epoch_logs = Epochs()
    callbacks = keras.callbacks.CallbackList([callback, epoch_logs], add_history=True)
    callbacks.set_model(keras.Sequential())
    callbacks.set_params({"epochs": epochs})
    callback.set_model(Upper())
    callbacks.on_train_begin()
    for epoch in range(begin, epochs):
        callbacks.on_epoch_end(epoch, {"loss": 1.0})
    return epoch_logs.names


@pytest.mark.once
def test_evaluations_every_few_epochs_and_after_the_last(capsys):
    callback = EvaluateGeneration(DATA, every=2, prefix="", verbose=2, metrics=["exact_match"])
    both, alone = ["exact_match", "loss"], ["loss"]
    assert fit_stand_in(callback, epochs=5) == [alone, both, alone, both, both]
    assert list(callback.results) == [0, 2, 4, 5]
    assert "base      5         80.0" in capsys.readouterr().out
    assert fit_stand_in(callback, epochs=8, begin=5) == [both, alone, both]
    assert list(callback.results) == [0, 6, 8]


@pytest.mark.once
def test_without_a_baseline():
    callback = EvaluateGeneration(DATA, baseline=False, metrics=["exact_match"])
    fit_stand_in(callback, epochs=1)
    assert list(callback.results) == [1] and callback.results[1].base is None


@pytest.mark.once
def test_an_interruption_of_the_callback_stops_fit(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    callback = EvaluateGeneration(DATA, batch_size=2, baseline=False, metrics=["exact_match"])
    callback.set_model(Upper(batches=1))
    callback.set_params({"epochs": 1})
    with pytest.raises(KeyboardInterrupt):
        callback.on_epoch_end(0, {})


@pytest.mark.once
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DATA, {"every": 0}, "every=0"),
        (DATA, {"every": True}, "every=True"),
        (DATA, {"metrics": ["accuracy"]}, r"metrics=\['accuracy'\]"),
        ({**DATA, "decoder_text": ["a"]}, {}, "5 of the inputs and 1"),
    ],
    ids=["every", "flag", "metrics", "data"],
)
def test_the_callback_fails_before_training(data, options, message):
    with pytest.raises(ValueError, match=message):
        EvaluateGeneration(data, **options)


# Metrics of the user, and samples


@pytest.mark.once
def test_metrics_that_are_functions():
    def length(predictions, references):
        assert references[1] == ["x", "B"]
        return np.mean([len(text) for text in predictions])

    class Several:
        name = "several"

        def compute(self, *, predictions=None, references=None):  # as `evaluate` has it
            return {"rows": len(predictions), "texts": sum(map(len, references))}

    metrics = ["exact_match", length, Several().compute]
    result = evaluate_generation(Upper(), DATA, metrics=metrics, verbose=0)
    assert result == {"exact_match": 80.0, "length": 2.2, "rows": 5.0, "texts": 6.0}
    assert all(type(value) is float for value in result.values())
    assert evaluate_generation(Upper(), DATA, metrics=length, verbose=0) == {"length": 2.2}


@pytest.mark.once
def test_bad_metrics_that_are_functions():
    def no_number(predictions, references):
        return "good"

    def broken(predictions, references):
        return 1 / 0

    with pytest.raises(TypeError, match="from 'no_number': 'good'"):
        evaluate_generation(Upper(), DATA, metrics=[no_number], verbose=0)
    with pytest.raises(ZeroDivisionError) as raised:
        evaluate_generation(Upper(), DATA, metrics=[broken], verbose=0)
    assert raised.value.__notes__ == ["In the metric 'broken'"]
    with pytest.raises(ValueError, match=r"different names.*\['broken'\]"):
        evaluate_generation(Upper(), DATA, metrics=[broken, broken], verbose=0)


@pytest.mark.once
def test_a_table_of_samples(capsys):
    data = {**DATA, "encoder_text": ["a\nb" + "c" * 99, *DATA["encoder_text"][1:]]}
    callback = EvaluateGeneration(data, metrics=["exact_match"], samples=2)
    fit_stand_in(callback, epochs=1)
    printed = capsys.readouterr().out
    first, *lines = printed.strip().split("\n\n")[-1].splitlines()
    assert first.split() == ["input", "target", "output"]
    assert len(lines) == 2 and "a\\nbccc" in lines[0] and "..." in lines[0]
    assert lines[1].split() == ["'b'", "'x'", "(+1)", "'B'"]
    assert printed.count("input") == 2  # before the first epoch and after it
    with pytest.raises(ValueError, match="samples=-1"):
        EvaluateGeneration(DATA, samples=-1)


@pytest.mark.once
def test_the_callback_reads_a_stream_once():
    references = {"a": "A", "b": ["b", "B"]}
    rows = ({"encoder_text": text, "decoder_text": r} for text, r in references.items())
    callback = EvaluateGeneration(rows, metrics=["exact_match"])
    fit_stand_in(callback, epochs=2)
    assert [result["exact_match"] for result in callback.results.values()] == [100.0] * 3
