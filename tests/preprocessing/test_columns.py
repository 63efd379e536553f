"""Columns of data sets: which are read, renamed and ignored; missing values; several targets."""

import warnings

import numpy as np
import pytest
from data_sets import (
    PAIRS,
    SEVERAL,
    TARGETS,
    TEXTS,
    Frame,
    IterableTable,
    PyDataset,
    Table,
    loader,
    ours,
)
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import evaluate_generation


@pytest.fixture(scope="module")
def lm():
    """A task whose weights stay as they are in training: losses can be compared."""
    lm = small_task()
    lm.optimizer.learning_rate = 0.0
    return lm


@pytest.fixture(scope="module")
def want(lm):
    return {
        "loss": lm.evaluate(SMALL_ROWS, verbose=0)[0],
        "score": lm.score(SMALL_ROWS),
        "logits": lm.predict(SMALL_ROWS, verbose=0),
        "continued": lm.generate(SMALL_ROWS, max_new_tokens=3),
        "answered": lm.generate(TEXTS, max_new_tokens=3),
    }


# Columns ----------------------------------------------------------------------------------------


def notes_of(call):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    return [note for note in ours(said) if note.startswith("Not read")]


@pytest.mark.once
def test_extra_columns_are_noted_once(lm):
    rows = {**SMALL_ROWS, "id": [7, 8], "label": [0, 1]}
    dicts = [{name: values[i] for name, values in rows.items()} for i in range(2)]
    for make in (lambda: rows, lambda: IterableTable(dicts)):
        calls = [
            lambda make=make: lm.fit(
                make(), validation_data=make(), batch_size=1, epochs=2, verbose=0
            ),
            lambda make=make: lm.evaluate(make(), batch_size=1, verbose=0),
            lambda make=make: lm.predict(make(), batch_size=1, verbose=0),
            lambda make=make: lm.generate(make(), batch_size=1, max_new_tokens=2, verbose=0),
            lambda make=make: lm.encode(make()),
            lambda make=make: lm.score(make()),
            lambda make=make: evaluate_generation(
                lm, make(), metrics=["exact_match"], max_new_tokens=2, verbose=0
            ),
        ]
        for call in calls:
            (note,) = notes_of(call)
            assert "the columns ['id', 'label']" in note and "rename" in note
    (note,) = notes_of(lambda: lm.encode({"encoder_text": ["a"], "image": [None]}))
    assert "did you mean 'images' for 'image'?" in note


@pytest.mark.once
def test_columns_are_renamed(lm, want):
    names = {"question": "encoder_text", "answer": "decoder_text"}
    rows = {"question": TEXTS, "answer": TARGETS}
    dicts = [dict(zip(rows, pair, strict=True)) for pair in PAIRS]
    for make in (
        *(lambda: Table(rows), lambda: Frame(rows)),
        *(lambda: IterableTable(dicts), lambda: PyDataset([rows])),
    ):
        options = {"columns": names, "verbose": 0}
        got = lm.fit(make(), validation_data=make(), shuffle=False, **options).history
        np.testing.assert_allclose([got["loss"][0], got["val_loss"][0]], want["loss"], 1e-5)
        np.testing.assert_allclose(lm.evaluate(make(), **options)[0], want["loss"], 1e-5)
        np.testing.assert_allclose(lm.predict(make(), **options), want["logits"], atol=1e-5)
        np.testing.assert_allclose(lm.score(make(), columns=names), want["score"], 1e-5)
        assert lm.generate(make(), max_new_tokens=3, **options) == want["continued"]
        assert len(lm.encode(make(), columns=names)) == 2
        result = evaluate_generation(
            lm, make(), metrics=["exact_match"], max_new_tokens=3, **options
        )
        assert result.predictions == want["answered"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("x", "columns", "message"),
    [
        ({"txt": ["a"]}, None, r"must hold one of .*\['txt'\].*columns={'txt': '\w+_text'}"),
        ({"encoder_txt": ["a"]}, None, "nearest is 'encoder_txt' to 'encoder_text'"),
        ([{"encodertext": "a"}], None, "nearest is 'encodertext'"),
        ({"q": ["a"]}, {"question": "encoder_text"}, r"columns that there are: \['q'\]"),
        ({"q": ["a"]}, {"q": "encoder_txt"}, "did you mean 'encoder_text'"),
        ({"q": ["a"], "r": ["b"]}, {"q": "encoder_text", "r": "encoder_text"}, "to one column"),
        ({"q": ["a"], "encoder_text": ["b"]}, {"q": "encoder_text"}, "that no other column has"),
        (["a"], {"q": "encoder_text"}, "renames what has names"),
        (
            {"train": Table(SMALL_ROWS), "test": Table(SMALL_ROWS)},
            None,
            r"Choose one.*data\['train'\]",
        ),
    ],
)
def test_columns_that_are_not_there(lm, x, columns, message):
    for method in (lm.generate, lm.encode, lm.score, lm.fit):
        with pytest.raises(ValueError, match=message):
            method(x, columns=columns)


@pytest.mark.once
def test_missing_values_are_named(lm):
    class NAType:  # as pandas has it
        def __repr__(self):
            return "<NA>"

    for missing in (None, float("nan"), np.float64("nan"), NAType()):
        for rows in (
            {"encoder_text": ["a", missing], "decoder_text": ["b", "c"]},
            Frame({"encoder_text": ["b", "c"], "decoder_text": ["a", missing]}),
        ):
            with pytest.raises(TypeError, match="_text` .*row 1: .*stands for nothing"):
                lm.fit(rows, verbose=0)
    images = {"encoder_text": ["a", "b"], "images": [float("nan"), None]}
    assert len(lm.encode(images)) == 2


# Several targets --------------------------------------------------------------------------------


def several_forms():
    dicts = [{name: values[i] for name, values in SEVERAL.items()} for i in range(2)]
    return {
        "dict": lambda: SEVERAL,
        "dicts": lambda: dicts,
        "table": lambda: Table(SEVERAL),
        "y": lambda: (TEXTS, SEVERAL["decoder_text"]),
        "rows": lambda: iter(dicts),
        "batches": lambda: PyDataset([SEVERAL]),
    }


@pytest.mark.once
@pytest.mark.parametrize("form", several_forms())
def test_evaluation_takes_each_target(lm, form):
    make = several_forms()[form]
    each = {
        "encoder_text": [TEXTS[0]] * 3 + [TEXTS[1]],
        "decoder_text": ["a dog", "the cat", "yes", "a house"],
    }
    want = lm.evaluate(each, verbose=0)[0]
    np.testing.assert_allclose(lm.evaluate(make(), verbose=0)[0], want, 1e-5)
    history = lm.fit(SMALL_ROWS, validation_data=make(), verbose=0).history
    np.testing.assert_allclose(history["val_loss"][0], want, 1e-5)
    result = evaluate_generation(
        lm, make(), metrics=[lambda p, r: sum(map(len, r))], max_new_tokens=2, verbose=0
    )
    assert list(result.values()) == [4.0]
    for method in (lm.score, lm.predict):
        with pytest.raises(ValueError, match="one text for each row here.*row 0: 3 texts"):
            method(make())


@pytest.mark.once
def test_fit_draws_a_target_for_each_epoch(lm, monkeypatch):
    drawn = []
    call = type(lm.preprocessor).call

    def spy(preprocessor, x, *arguments, **options):
        drawn.append([row.decoder_text for row in x])
        return call(preprocessor, x, *arguments, **options)

    monkeypatch.setattr(type(lm.preprocessor), "call", spy)
    epochs = {}
    for form in ("dict", "batches", "dict again"):
        drawn.clear()
        make = several_forms()[form.split()[0]]
        lm.fit(make(), shuffle=False, epochs=8, verbose=0)
        seen = [row for rows in drawn for row in rows]
        assert len(set(seen)) >= 3 and set(seen) <= {"a dog", "the cat", "yes", "a house"}
        epochs[form] = [tuple(rows) for rows in drawn]
    assert epochs["dict"] == epochs["dict again"]


@pytest.mark.once
def test_weights_of_rows_with_several_targets(lm):
    got = lm.evaluate(SEVERAL, sample_weight=np.array([1.0, 0.0]), verbose=0)[0]
    first = {"encoder_text": [TEXTS[0]] * 3, "decoder_text": SEVERAL["decoder_text"][0]}
    np.testing.assert_allclose(got, lm.evaluate(first, verbose=0)[0], 1e-5)


@pytest.mark.once
def test_a_prompt_is_one_text(lm):
    with pytest.raises(TypeError, match=r"`decoder_text` .* row 0: \['a dog', "):
        lm.generate(SEVERAL)


@pytest.mark.once
def test_targets_that_a_data_loader_mixed_up_are_refused(lm):
    """torch's own way to make a batch turns lists of rows into tuples across rows."""
    rows = [{"encoder_text": t, "decoder_text": ["a", "the"]} for t in TEXTS]
    for call in (
        *(lm.fit, lm.evaluate),
        lambda data: evaluate_generation(lm, data, metrics=["exact_match"]),
    ):
        with pytest.raises(TypeError, match="In batch 0: .*must be a list.*`collate_fn=list`"):
            call(loader(rows))
