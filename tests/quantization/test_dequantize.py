"""Integers back to floats, and products with them, against the same written out in numpy."""

import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.quantization.dequantize import of_blocks, times_dequantized, unpacked


@pytest.mark.parametrize("length", [6, 5, 1])
def test_two_codes_of_a_byte(length, rng):
    """The first of them is in the lower bits; all sixteen values come back with their sign."""
    codes = rng.integers(-8, 8, size=(8, length)).astype("int8")
    codes[:, 0] = np.arange(-8, 0)
    codes[:, -1] = np.arange(-4, 4)
    even = np.pad(codes, [(0, 0), (0, length % 2)]).astype("uint8")
    packed = (even[:, ::2] & 15 | even[:, 1::2] << 4).astype("int8")
    found = ops.convert_to_numpy(unpacked(ops.convert_to_tensor(packed), length))
    assert found.dtype == "int8"
    np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize(
    ("length", "block"),
    [(7, 3), *(pytest.param(*sizes, marks=pytest.mark.once) for sizes in ((6, 3), (2, 3), (3, 1)))],
)
def test_blocks_along_either_axis(axis, length, block, rng):
    """The last block may not be whole."""
    count = -(-length // block)
    codes = rng.integers(-8, 8, size=(length, 5)).astype("float32")
    scale, zero = rng.normal(size=(2, count, 5)).astype("float32")
    number = np.arange(length) // block
    wanted = (codes - zero[number]) * scale[number]
    if axis == -1:
        codes, scale, zero, wanted = codes.T, scale.T, zero.T, wanted.T
    tensors = (ops.convert_to_tensor(np.ascontiguousarray(x)) for x in (codes, scale, zero))
    found = ops.convert_to_numpy(of_blocks(*tensors, axis, block))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_product_and_its_gradient(rng):
    x = rng.normal(size=(2, 3, 4)).astype("float32")
    codes = ops.convert_to_tensor(rng.integers(-8, 8, size=(4, 5)).astype("int8"))
    scale = ops.convert_to_tensor(rng.normal(size=5).astype("float32"))
    matrix = ops.convert_to_numpy(codes) * ops.convert_to_numpy(scale)
    factors = rng.normal(size=(2, 3, 5)).astype("float32")

    def function(x):
        product = times_dequantized(x, [codes, scale], lambda s: ops.cast(s[0], "float32") * s[1])
        return ops.sum(product * ops.convert_to_tensor(factors))

    value, (slope,) = value_and_gradients(function, [ops.convert_to_tensor(x)])
    np.testing.assert_allclose(value, (x @ matrix * factors).sum(), rtol=1e-4)
    np.testing.assert_allclose(slope, factors @ matrix.T, **TOLERANCE["float32"])
