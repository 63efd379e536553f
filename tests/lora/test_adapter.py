"""The variables of one adapter, and the lengths of the columns that it makes."""

import keras
import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.lora.adapter import Adapter


def adapter(rng, scale=1.5, magnitude=None, rank=2):
    arrays = rng.normal(size=(11, rank)), rng.normal(size=(rank, 7))
    return Adapter(*(keras.Variable(a.astype("float32")) for a in arrays), magnitude, scale)


def test_columns_have_the_lengths_of_those_of_the_sum(rng):
    one = adapter(rng)
    kernel = keras.Variable(rng.normal(size=(11, 7)).astype("float32"))
    whole = ops.convert_to_numpy(kernel) + 1.5 * ops.convert_to_numpy(ops.matmul(one.a, one.b))
    lengths = one.column_norms(kernel, "float32")
    assert keras.backend.standardize_dtype(lengths.dtype) == "float32"
    np.testing.assert_allclose(
        ops.convert_to_numpy(lengths), np.linalg.norm(whole, axis=0), **TOLERANCE["float32"]
    )


def test_all_are_rounded_to_the_dtype_of_the_products(rng):
    """Lengths themselves are float32, and those of W alone exact."""
    one = adapter(rng)
    one.b.assign(np.zeros((2, 7)))
    kernel = rng.normal(size=(11, 7)).astype("float32")
    rounded = kernel.astype("bfloat16").astype("float32")
    lengths = ops.convert_to_numpy(one.column_norms(keras.Variable(kernel), "bfloat16"))
    np.testing.assert_allclose(lengths, np.linalg.norm(rounded, axis=0), rtol=1e-6)
    assert np.abs(lengths - np.linalg.norm(kernel, axis=0)).max() > 1e-5


def test_lengths_get_no_gradient(rng):
    one = adapter(rng)
    kernel = ops.convert_to_tensor(rng.normal(size=(11, 7)).astype("float32"))

    def function(kernel):
        return ops.sum(kernel * kernel) + ops.sum(one.column_norms(kernel, "float32"))

    _, (slope,) = value_and_gradients(function, [kernel])
    np.testing.assert_allclose(slope, 2 * ops.convert_to_numpy(kernel), rtol=1e-6)


@pytest.mark.once
def test_variables_and_what_is_shown(rng):
    one = adapter(rng, scale=0.5)
    assert list(one.variables) == ["lora_a", "lora_b"] and one.variables["lora_a"] is one.a
    assert repr(one) == "<adapter of rank 2, scale 0.5>"
    magnitude = keras.Variable(np.ones(7))
    other = adapter(rng, magnitude=magnitude, rank=3)
    assert other.variables["magnitude"] is magnitude
    assert repr(other) == "<adapter of rank 3, scale 1.5, with magnitudes>"
    assert one != adapter(np.random.default_rng(0), scale=0.5)
