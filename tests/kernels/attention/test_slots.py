"""Tokens written into the slots of a buffer."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels.attention import slots

pytestmark = pytest.mark.once


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
@pytest.mark.parametrize("where", [2, [3], [4, 0, 1]], ids=str)
def test_only_the_slots_change(rng, shape, where):
    """Of one row and head, and of several, which have buffers of another shape inside."""
    count = np.size(where)
    buffer = rng.normal(size=(*shape, 5, 8)).astype("float32")
    values = rng.normal(size=(*shape, count, 8)).astype("float32")
    got = slots.write_slots(
        *(ops.convert_to_tensor(x) for x in (buffer, values)),
        ops.convert_to_tensor(where, dtype="int32"),
    )
    buffer[:, :, np.reshape(where, -1)] = values
    np.testing.assert_array_equal(ops.convert_to_numpy(got), buffer)


def test_values_take_the_dtype_of_the_buffer():
    got = slots.write_slots(
        ops.zeros((1, 2, 3, 4), "bfloat16"), ops.ones((1, 2, 1, 4)), ops.array(0, "int32")
    )
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert float(ops.sum(ops.cast(got, "float32"))) == 8.0


def test_put_takes_any_axis():
    buffer = ops.zeros((2, 4), "int32")
    got = slots.put(buffer, ops.array([[5, 6], [7, 8]], "int32"), ops.array([3, 0], "int32"), 1)
    assert ops.convert_to_numpy(got).tolist() == [[6, 0, 0, 5], [8, 0, 0, 7]]
    got = slots.put(buffer, ops.array([[1, 2, 3, 4]], "int32"), ops.array(1, "int32"), 0)
    assert ops.convert_to_numpy(got).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4]]
