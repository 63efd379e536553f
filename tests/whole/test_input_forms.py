"""The same rows in every form that people bring: the same results from every method."""

import keras
import numpy as np
import pytest
from data_sets import (
    PAIRS,
    ROW_DICTS,
    TARGETS,
    TEXTS,
    Column,
    Frame,
    IterableTable,
    Numbered,
    PyDataset,
    Table,
    loader,
    ours,
    real_frame,
    real_table,
    tf_data,
)
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import evaluate_generation

FORMS = {
    "a dict of columns": lambda: {name: Column(values) for name, values in SMALL_ROWS.items()},
    "a list of dicts": lambda: ROW_DICTS,
    "a sequence of dicts": lambda: Column(ROW_DICTS),
    "numbered rows": lambda: Numbered(ROW_DICTS),
    "a table": lambda: Table(SMALL_ROWS),
    "an iterable table": lambda: IterableTable(ROW_DICTS),
    "a frame": lambda: Frame(SMALL_ROWS),
    "a frame of pandas": lambda: real_frame(SMALL_ROWS),
    "a table of datasets": lambda: real_table(SMALL_ROWS),
    "an iterable table of datasets": lambda: real_table(SMALL_ROWS).to_iterable_dataset(),
    "texts and targets": lambda: (TEXTS, TARGETS),
    "columns of texts and targets": lambda: (Column(TEXTS), np.array(TARGETS)),
    "pairs": lambda: PAIRS,
    "numbered pairs": lambda: Numbered(PAIRS),
    "a generator of pairs": lambda: (pair for pair in PAIRS),
    "a generator of batches of pairs": lambda: iter([(TEXTS, TARGETS)]),
    "a PyDataset": lambda: PyDataset([SMALL_ROWS]),
    "a PyDataset of pairs": lambda: PyDataset([(TEXTS, TARGETS)]),
    "a DataLoader": lambda: loader(ROW_DICTS),
    "a DataLoader of pairs": lambda: loader(PAIRS),
    "tf.data": lambda: tf_data(SMALL_ROWS),
    "tf.data of pairs": lambda: tf_data((TEXTS, TARGETS)),
    "tf.data of batches of pairs": lambda: tf_data((TEXTS, TARGETS)).batch(2),
}


@pytest.fixture(scope="module")
def lm():
    """A task whose weights stay as they are in training: losses can be compared."""
    lm = small_task()
    lm.optimizer.learning_rate = 0.0
    return lm


class Wanted(dict):
    """What each method gives, computed when a test asks for it."""

    def __init__(self, lm):
        super().__init__()
        self.make = {
            "loss": lambda: lm.evaluate(SMALL_ROWS, verbose=0)[0],
            "score": lambda: lm.score(SMALL_ROWS),
            "logits": lambda: lm.predict(SMALL_ROWS, verbose=0),
            "continued": lambda: lm.generate(SMALL_ROWS, max_new_tokens=3),
            "answered": lambda: lm.generate(TEXTS, max_new_tokens=3),
        }

    def __missing__(self, name):
        self[name] = self.make[name]()
        return self[name]


@pytest.fixture(scope="module")
def want(lm):
    return Wanted(lm)


# Every form, every method -----------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("form", FORMS)
def test_training_and_scores_take_every_form(lm, want, form):
    make = FORMS[form]
    history = lm.fit(make(), validation_data=make(), shuffle=False, verbose=0).history
    np.testing.assert_allclose([history["loss"][0], history["val_loss"][0]], want["loss"], 1e-5)
    np.testing.assert_allclose(lm.evaluate(make(), verbose=0)[0], want["loss"], 1e-5)
    np.testing.assert_allclose(lm.predict(make(), verbose=0), want["logits"], atol=1e-5)
    np.testing.assert_allclose(lm.score(make()), want["score"], 1e-5)


@pytest.mark.once
@pytest.mark.parametrize("form", FORMS)
def test_generation_takes_every_form(lm, want, form):
    """In dicts `decoder_text` is a prompt; the targets of (x, y) are not read, which is said."""
    make = FORMS[form]
    make()  # or the library is missing
    if "pairs" in form or "targets" in form:
        with pytest.warns(UserWarning, match="targets `y` .* are not read") as said:
            texts = lm.generate(make(), max_new_tokens=3)
        assert texts == want["answered"] and len(ours(said)) == 1
    else:
        assert lm.generate(make(), max_new_tokens=3) == want["continued"]
    result = evaluate_generation(lm, make(), metrics=["exact_match"], max_new_tokens=3, verbose=0)
    assert result.predictions == want["answered"]


@pytest.mark.parametrize(
    "form",
    ["pairs", "an iterable table"]
    + [pytest.param(name, marks=pytest.mark.once) for name in ("a table", "tf.data of pairs")],
)
def test_forms_on_every_backend(lm, want, form):
    make = FORMS[form]
    np.testing.assert_allclose(lm.evaluate(make(), verbose=0)[0], want["loss"], 1e-5)
    np.testing.assert_allclose(lm.score(make()), want["score"], 1e-5)


@pytest.mark.once
def test_texts_and_targets_as_x_and_y(lm, want):
    for x, y in (
        (TEXTS, TARGETS),
        (Column(TEXTS), Column(TARGETS)),
        ({"encoder_text": TEXTS}, TARGETS),
    ):
        np.testing.assert_allclose(lm.evaluate(x, y, verbose=0)[0], want["loss"], 1e-5)
    history = lm.fit(TEXTS, TARGETS, validation_data=(TEXTS, TARGETS), shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["val_loss"][0], want["loss"], 1e-5)
    with pytest.raises(ValueError, match="`y` must be `None` where x holds `decoder_text`"):
        lm.fit(SMALL_ROWS, TARGETS, verbose=0)
    with pytest.raises(ValueError, match="`y` must be `None` or texts"):
        lm.fit(TEXTS, np.array([1, 2]), verbose=0)
    assert np.isscalar(lm.score((TEXTS[:1], TARGETS[:1]))[0])


# `generate` from data sets ----------------------------------------------------------------------


def text_streams():
    return {
        "tf.data of rows": tf_data(TEXTS),
        "tf.data of batches": tf_data(TEXTS).batch(1),
        "tf.data of dicts": tf_data({"encoder_text": TEXTS}),
        "tf.data of batches of dicts": tf_data({"encoder_text": TEXTS}).batch(2),
        "generator": (text for text in TEXTS),
        "generator of batches": ([text] for text in TEXTS),
        "PyDataset": PyDataset([TEXTS[:1], {"encoder_text": TEXTS[1:]}]),
        "DataLoader": loader(TEXTS),
        "column": Column(TEXTS),
        "grain": pytest.importorskip("grain").MapDataset.source(TEXTS).batch(2),
    }


@pytest.mark.once
def test_every_argument_counts_for_every_source(lm, monkeypatch):
    lm.compile(sampler="top_p", optimizer=lm.optimizer)
    shown = []
    monkeypatch.setattr(keras.utils.Progbar, "update", lambda bar, *_: shown.append(bar.verbose))
    options = {"num_return_sequences": 3, "batch_size": 1, "max_new_tokens": 3, "verbose": 1}
    try:
        want = None
        for source in (list(TEXTS), *text_streams().values()):
            keras.utils.set_random_seed(0)
            lm.sampler.seed_generator.state.assign(
                keras.ops.zeros_like(lm.sampler.seed_generator.state)
            )
            shown.clear()
            got = lm.generate(source, strip_prompt=True, cross_attention_cache="shared", **options)
            want = want or got
            assert got == want and len(got) == 6
            assert shown == [1, 1]
    finally:
        lm.compile(sampler="greedy", optimizer=lm.optimizer)


@pytest.mark.once
def test_tf_data_goes_the_way_of_a_list(lm, want):
    for source in (tf_data(TEXTS), tf_data({"encoder_text": TEXTS}).batch(2)):
        assert lm.generate(source, max_new_tokens=3) == want["answered"]
    copied = lm.generate(tf_data(TEXTS), max_new_tokens=3, assistant="prompt_lookup")
    assert copied == want["answered"]
    encoded = lm.encode(tf_data(TEXTS).batch(1))
    assert len(encoded) == 2
    prompts = tf_data({"decoder_text": ["the", "a"]})
    got = lm.generate(prompts, encoded=encoded, max_new_tokens=3, strip_prompt=True)
    inputs = {"encoder_text": TEXTS, "decoder_text": ["the", "a"]}
    assert got == lm.generate(inputs, max_new_tokens=3, strip_prompt=True)
    streamed = ["", ""]
    for row, piece in lm.stream(tf_data(TEXTS), max_new_tokens=3):
        streamed[row] += piece
    assert streamed == lm.generate(TEXTS, max_new_tokens=3, strip_prompt=True)


@pytest.mark.once
def test_what_cannot_be_read_to_its_end(lm):
    empty = tf_data(TEXTS).take(0)
    for source in (empty, iter([]), PyDataset([]), Column([]), [], Table({"encoder_text": []})):
        for method in (lm.generate, lm.encode, lm.score):
            with pytest.raises(ValueError, match="at least one row. Received: an empty"):
                method(source)
    with pytest.raises(ValueError, match="must have an end.*take.10."):
        lm.generate(tf_data(TEXTS).repeat())
    with pytest.raises(TypeError, match="In batch 1: `encoder_text` must be a string"):
        lm.generate(iter(["a", 3]))
    with pytest.raises(TypeError):
        lm.generate(3)


@pytest.mark.once
def test_arrays_of_data_sets_without_a_preprocessor(lm):
    arrays = lm.preprocessor.generate_preprocess(TEXTS)
    parts = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(2)]
    # Shorter: what is cut off is padding.
    parts[0] = {name: array[:, :8] for name, array in parts[0].items()}
    preprocessor, lm.preprocessor = lm.preprocessor, None
    try:
        options = {"stop_token_ids": None, "max_new_tokens": 3}
        want = lm.generate(arrays, **options)["decoder_token_ids"]
        rows = ({name: array[i] for name, array in arrays.items()} for i in range(2))
        for source in (
            iter(parts),
            PyDataset(parts),
            rows,
            tf_data(arrays),
            tf_data(arrays).batch(2),
        ):
            got = lm.generate(source, **options)["decoder_token_ids"]
            np.testing.assert_array_equal(got, want)
    finally:
        lm.preprocessor = preprocessor
