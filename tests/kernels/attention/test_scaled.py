"""Keys and values as numbers times scales, and tensors rounded to them."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.attention import scaled


def test_the_largest_of_a_token_and_head_is_127(rng):
    x = rng.normal(size=(2, 3, 5, 8)).astype("float32")
    x[1, 2, 3] = 0.0
    scaled = kernels.rounded(ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(scaled.numbers.dtype) == "int8"
    largest = np.abs(numbers(scaled.numbers)).max(axis=-1)
    assert largest[1, 2, 3] == 0 and (np.delete(largest.ravel(), 28) == 127).all()
    error = np.abs(numbers(kernels.plain(scaled, "float32")) - x)
    assert (error <= 0.501 * numbers(scaled.scales)).all()


@pytest.mark.once
def test_each_backend_rounds_alike(rng):
    x = ops.cast(rng.normal(size=(2, 3, 5, 8)).astype("float32"), "bfloat16")
    for got, want in zip(kernels.rounded(x), scaled.rounded(x), strict=True):
        assert keras.backend.standardize_dtype(got.dtype) in ("int8", "float32")
        np.testing.assert_array_equal(numbers(got), numbers(want))


@pytest.mark.once
def test_times_multiplies_the_scales_and_leaves_the_numbers():
    x, twice = ops.ones((1, 2, 3, 4), "int8"), ops.full((1, 2, 3, 1), 2.0)
    once = scaled.times(x, twice)
    assert once.numbers is x and once.shape == x.shape
    again = scaled.times(once, ops.full((1, 2, 3, 1), 5.0))
    assert again.numbers is x
    np.testing.assert_array_equal(numbers(scaled.plain(again, "float32")), np.full(x.shape, 10.0))


@pytest.mark.once
def test_plain_casts_what_is_scaled_and_nothing_else():
    x = ops.ones((1, 2, 3, 4), "float16")
    assert scaled.plain(x, "float32") is x
    assert scaled.numbers_and_scales(x) == (x, None)
    product = scaled.plain(scaled.times(x, ops.ones((1, 2, 3, 1))), "bfloat16")
    assert keras.backend.standardize_dtype(product.dtype) == "bfloat16"


@pytest.mark.once
def test_shared_numbers_take_a_scale_for_each_head():
    numbers_ = ops.ones((1, 1, 2, 3), "int8")
    scales = ops.reshape(ops.arange(4, dtype="float32"), (1, 2, 2, 1))
    got = numbers(scaled.plain(scaled.Scaled(numbers_, scales), "float32"))
    np.testing.assert_array_equal(got, np.repeat(numbers(scales), 3, axis=-1))


def numbers(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))
