"""Pooling: each kind against numpy on the row alone, whatever the padding, dtype and batch."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.model.pooling import KINDS, Pooling

LENGTHS = (5, 1, 3)
WIDTH = 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_row_is_pooled_as_it_is_alone(kind, side, rng):
    pooling = _pooling(kind, rng)
    rows = [rng.standard_normal((length, WIDTH), "float32") for length in LENGTHS]
    x, mask = _padded(rows, side)
    pooled = ops.convert_to_numpy(pooling(x, mask))
    want = [_by_numpy(kind, pooling, row) for row in rows]
    np.testing.assert_allclose(pooled, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_padding_gives_zeros(kind, rng):
    pooled = _pooling(kind, rng)(np.ones((2, 3, WIDTH), "float32"), np.array([[0] * 3, [1] * 3]))
    np.testing.assert_array_equal(ops.convert_to_numpy(pooled)[0], np.zeros(WIDTH))
    np.testing.assert_allclose(ops.convert_to_numpy(pooled)[1], np.ones(WIDTH), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_float16_are_pooled_in_float32(kind, rng):
    """Whose weights, 1 / 48 say, would have an error of 1e-4."""
    x = np.full((1, 48, WIDTH), 3e4, "float16")
    pooled = Pooling(kind, dtype="float16")(x, np.ones((1, 48)))
    assert keras.backend.standardize_dtype(pooled.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(pooled), np.full((1, WIDTH), 3e4), rtol=1e-6)


def test_attention_starts_as_the_mean_and_is_trained(rng):
    x, mask = _padded([rng.standard_normal((n, WIDTH), "float32") for n in LENGTHS], "right")
    states, seen = keras.Input((None, WIDTH)), keras.Input((None,))
    attention = Pooling("attention")
    model = keras.Model([states, seen], attention(states, seen))
    mean = ops.convert_to_numpy(Pooling("mean")(x, mask))
    np.testing.assert_allclose(ops.convert_to_numpy(attention(x, mask)), mean, rtol=1e-5, atol=1e-6)
    model.compile("sgd", "mse")
    model.fit([np.nan_to_num(x), mask.astype("float32")], np.ones((3, WIDTH)), verbose=0)
    assert np.abs(ops.convert_to_numpy(attention.query)).min() > 0


@pytest.mark.once
def test_the_config_makes_the_layer_again():
    assert Pooling.from_config(Pooling("last", name="p").get_config()).kind == "last"


@pytest.mark.once
def test_kinds_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="`pooling` must be one of 'mean', .*pooling='max'"):
        Pooling("max")


def _pooling(kind, rng):
    pooling = Pooling(kind)
    pooling.build((None, None, WIDTH))
    for weight in pooling.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return pooling


def _padded(rows, side):
    """Rows in one array, NaN at padding, and the mask."""
    longest = max(map(len, rows)) + 2
    x = np.full((len(rows), longest, WIDTH), np.nan, "float32")
    mask = np.zeros((len(rows), longest), "int32")
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        x[i, where], mask[i, where] = row, 1
    return x, mask


def _by_numpy(kind, pooling, row):
    if kind == "mean":
        return row.mean(axis=0)
    if kind in ("first", "last"):
        return row[0 if kind == "first" else -1]
    weights = np.exp(row @ ops.convert_to_numpy(pooling.query) / WIDTH**0.5)
    return weights @ row / weights.sum()
