"""Batches are as long as their longest row, rounded up: the same numbers as padded to the caps."""

import keras
import numpy as np
import pytest
from row_lengths import CAPS, ROWS, WORDS, shapes_of_batches
from tasks import small_task

from keras_t5gemma2 import Distillation
from keras_t5gemma2.preprocessing.packing import bucket

SHORT = {"encoder_text": ["Spell 7 in Dutch."] * 2, "decoder_text": ["zeven"] * 2}


@pytest.fixture(scope="module")
def lm():
    lm = small_task()
    for name, cap in CAPS.items():
        setattr(lm.preprocessor, name, cap)
    return lm


@pytest.fixture(scope="module")
def to_the_caps(lm):
    """The arrays of all rows, padded to the caps."""
    return lm.preprocessor(ROWS, **CAPS)


@pytest.fixture
def shapes(monkeypatch):
    return shapes_of_batches(monkeypatch)


class Pairs(keras.utils.PyDataset):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.make(pair(index))


def pair(index):
    return {name: values[2 * index : 2 * index + 2] for name, values in ROWS.items()}


def row_dicts():
    return [{name: values[i] for name, values in ROWS.items()} for i in range(6)]


# Arrays ---------------------------------------------------------------------------------------


@pytest.mark.once
def test_few_sizes():
    sizes = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert list(dict.fromkeys(bucket(n) for n in range(2049))) == sizes
    assert all(bucket(n) >= n for n in range(2049))
    found = [bucket(n, smallest=16, middles_from=64) for n in (1, 16, 17, 33, 65, 97)]
    assert found == [16, 16, 32, 64, 96, 128]


@pytest.mark.once
@pytest.mark.parametrize("training", [False, True])
def test_arrays_are_those_of_the_caps_without_what_is_padding(lm, training):
    preprocess = lm.preprocessor if training else lm.preprocessor.generate_preprocess
    for rows in (ROWS, SHORT, row_dicts()[3], row_dicts()[0]):
        short, full = preprocess(rows), preprocess(rows, **CAPS)
        lengths = _lengths(short)
        assert lengths == tuple(
            bucket(int(_inputs(full)[f"{side}_padding_mask"].sum(-1).max()))
            for side in ("encoder", "decoder")
        )
        names = keras.tree.flatten(_names(short))
        for name, a, b in zip(names, *map(keras.tree.flatten, (short, full)), strict=True):
            width = lengths[0] if name.startswith("encoder") else lengths[1]
            np.testing.assert_array_equal(a, b[..., :width])
            assert not b[..., width:].any()


def _inputs(arrays):
    return arrays[0] if isinstance(arrays, tuple) else arrays


def _lengths(arrays):
    x = _inputs(arrays)
    return x["encoder_token_ids"].shape[-1], x["decoder_token_ids"].shape[-1]


def _names(arrays):
    x = {name: name for name in _inputs(arrays)}
    return (x, "labels", "weights") if isinstance(arrays, tuple) else x


@pytest.mark.once
def test_caps_and_given_lengths(lm):
    preprocess = lm.preprocessor
    assert _lengths(preprocess(SHORT)) == (32, 32)
    assert _lengths(preprocess(SHORT, encoder_sequence_length=19)) == (19, 32)
    assert _lengths(preprocess(SHORT, sequence_length=77)) == (32, 77)
    assert _lengths(preprocess.generate_preprocess(SHORT, sequence_length=11)) == (32, 11)
    long = {"encoder_text": [f"{WORDS} " * 40], "decoder_text": [f"{WORDS} " * 40]}
    assert _lengths(preprocess(long)) == (200, 150)
    assert preprocess(long)[2].all()


@pytest.mark.once
def test_weights_of_labels_need_not_know_the_length(lm):
    """They reach the longest row's last label; those of padding do not matter."""
    _, _, plain = lm.preprocessor(SHORT)
    count = int(plain.sum(axis=1).max())
    for width in (count, 32, 150):
        weights = np.arange(2.0 * width).reshape(2, width)
        _, _, found = lm.preprocessor(SHORT, sample_weight=weights)
        np.testing.assert_array_equal(found[:, :count], weights[:, :count])
        assert not found[:, count:].any()
    with pytest.raises(ValueError, match=rf"Received: .* of shape \(2, {count - 1}\)"):
        lm.preprocessor(SHORT, sample_weight=np.ones((2, count - 1)))


# Steps ----------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_short_rows_make_short_steps(lm, shapes, method):
    getattr(lm, method)(SHORT, batch_size=2, verbose=0)
    assert set(shapes) == {((2, 32), (2, 32))}


@pytest.mark.once
def test_the_loss_is_that_of_rows_padded_to_the_caps(lm, to_the_caps, shapes):
    x, labels, weights = to_the_caps
    wanted = lm.evaluate(x, labels, sample_weight=weights, verbose=0)
    wanted_scores = _scores(lm, to_the_caps)
    shapes.clear()
    got = lm.evaluate(ROWS, batch_size=2, verbose=0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert all(shape[0] in (1, 2) and shape[1] <= 192 for pairs in shapes for shape in pairs)
    np.testing.assert_allclose(lm.score(ROWS), wanted_scores, rtol=1e-5)


def _scores(lm, arrays):
    x, labels, weights = arrays
    logits = keras.ops.convert_to_tensor(lm.predict(x, verbose=0))
    found = keras.ops.log_softmax(keras.ops.cast(logits, "float32"), axis=-1)
    found = keras.ops.take_along_axis(found, keras.ops.convert_to_tensor(labels[..., None]), -1)
    return (keras.ops.convert_to_numpy(found)[..., 0] * weights).sum(axis=1)


@pytest.mark.once
def test_a_step_changes_weights_as_one_padded_to_the_caps(lm, to_the_caps):
    before = lm.get_weights()
    options = {"batch_size": 6, "shuffle": False, "verbose": 0}
    x, labels, weights = to_the_caps
    first = lm.fit(x, labels, sample_weight=weights, **options).history["loss"]
    wanted = lm.get_weights()
    lm.set_weights(before)
    np.testing.assert_allclose(lm.fit(ROWS, **options).history["loss"], first, rtol=1e-5)
    for got, want in zip(lm.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    lm.set_weights(before)


@pytest.mark.once
def test_stored_samples_of_a_teacher_fit_every_length(lm):
    """Sampled in batches of other lengths than those of the student's steps."""
    samples = lm.sample_logits(ROWS, num_samples=4, batch_size=3)
    before = lm.get_weights()
    losses = []
    for batch_size in (1, 2, 6):
        with_samples = {"distillation": Distillation(samples), "batch_size": batch_size}
        lm.optimizer.learning_rate = 0.0
        losses.append(lm.fit(ROWS, verbose=0, **with_samples).history["loss"][0])
    lm.optimizer.learning_rate = 0.5
    lm.set_weights(before)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


# Predictions ----------------------------------------------------------------------------------


def _tf_data(make):
    tf = pytest.importorskip("tensorflow")
    return make(tf.data.Dataset.from_tensor_slices(ROWS).batch(2))


SOURCES = {
    "rows": (lambda f: ROWS, {"batch_size": 2}),
    "dicts": (lambda f: row_dicts(), {"batch_size": 4}),
    "PyDataset": (lambda f: Pairs(lambda rows: rows), {}),
    "arrays of a PyDataset": (lambda f: Pairs(f), {}),
    "tf.data": (lambda f: _tf_data(lambda data: data), {}),
    "tf.data, mapped": (lambda f: _tf_data(lambda data: data.map(f)), {}),
    "generator": (lambda f: (pair(i) for i in range(3)), {}),
    "generator of rows": (lambda f: (row for row in row_dicts()), {"batch_size": 2}),
    "generator of arrays": (lambda f: (f(row) for row in row_dicts()), {"batch_size": 2}),
}
ONCE = pytest.mark.once


@pytest.mark.once
@pytest.mark.parametrize(
    "source",
    [name if name == "tf.data" else pytest.param(name, marks=ONCE) for name in SOURCES],
)
def test_predictions_have_the_length_of_the_longest_row(lm, to_the_caps, source):
    make, options = SOURCES[source]
    got = lm.predict(make(lm.preprocessor), verbose=0, **options)
    x, _, _ = to_the_caps
    wanted = lm.predict(x, verbose=0)
    there = x["decoder_padding_mask"]
    length = _lengths(lm.preprocessor(ROWS))[1]
    assert got.shape == (6, length, wanted.shape[2])
    for row in range(6):  # in their order
        tokens = np.flatnonzero(there[row])
        np.testing.assert_allclose(got[row, tokens], wanted[row, tokens], rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_predictions_of_a_part_of_the_data(lm):
    whole = lm.predict(ROWS, batch_size=2, verbose=0)
    part = lm.predict(ROWS, batch_size=2, steps=2, verbose=0)
    assert len(part) == 4
    assert part.shape[1] == bucket(int(lm.preprocessor(ROWS)[0]["decoder_padding_mask"][3].sum()))
    np.testing.assert_allclose(part[0, :3], whole[0, :3], rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_rows_of_arrays_of_other_lengths_are_joined_to_batches(lm):
    """What fills a shorter row up has no weight, also where no weights are given."""
    wanted = lm.evaluate(ROWS, batch_size=2, verbose=0)[0]
    arrays = [lm.preprocessor(row) for row in row_dicts()]
    assert len({labels.shape for _, labels, _ in arrays}) > 1
    got = lm.evaluate((row for row in arrays), batch_size=2, verbose=0)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)

    cut = [_cut(*row) for row in arrays]
    got = lm.evaluate((row for row in cut), batch_size=2, verbose=0)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def _cut(x, labels, weights):
    """A row of the preprocessor without padding: no weights are needed."""
    x = {k: v[x[f"{k.partition('_')[0]}_padding_mask"]] for k, v in x.items()}
    end = int(weights.sum())
    x = {k: v[:end] if k.startswith("decoder") else v for k, v in x.items()}
    return x, labels[:end]
