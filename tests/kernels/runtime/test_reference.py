"""Loops over blocks in pure `keras.ops`, and zeros that wait for others."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels.runtime.reference import is_on_cpu, map_blocks, zero_after


@pytest.mark.parametrize("axis", [1, *(pytest.param(n, marks=pytest.mark.once) for n in (0, 2))])
def test_each_block_is_replaced_by_what_is_made_of_it(axis, rng):
    x = rng.normal(size=(4, 6, 2)).astype("float32")
    size = x.shape[axis] // 2

    def function(i, block):
        assert block.shape == tuple(size if n == axis else s for n, s in enumerate(x.shape))
        return block + ops.cast(i, "float32"), ops.sum(block)

    found, more = map_blocks(function, ops.convert_to_tensor(x), size, axis)
    blocks = np.split(x, 2, axis)
    wanted = np.concatenate([blocks[0], blocks[1] + 1], axis)
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=1e-6)
    sums = [block.sum() for block in blocks]
    np.testing.assert_allclose(ops.convert_to_numpy(more), sums, rtol=1e-5, atol=1e-5)


def test_one_block_is_the_whole():
    x = np.ones((2, 3), "bfloat16")
    found, more = map_blocks(lambda i, block: (2 * block, i), ops.convert_to_tensor(x), 3, 1)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    assert (ops.convert_to_numpy(ops.cast(found, "float32")) == 2).all()
    assert ops.convert_to_numpy(more).tolist() == [0]


@pytest.mark.parametrize(
    "x", [np.ones((2, 3)), -np.ones(1), np.zeros(2), np.ones((0, 3)), np.ones(3, "int32")]
)
def test_a_zero_is_one_whatever_it_comes_after(x):
    zero = zero_after(ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(zero.dtype) == "float32" and zero.shape == ()
    assert float(zero) == 0.0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_zero_comes_after_what_is_no_number(value):
    assert float(zero_after(ops.convert_to_tensor(np.array([value], "float32")))) == 0.0


@pytest.mark.once
def test_one_other_device_is_enough(monkeypatch):
    for devices, wanted in ((["cpu:0"], True), (["cpu:0", "cpu:1"], True), (["gpu:0"], False)):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda found=devices: found)
        assert is_on_cpu() is wanted
