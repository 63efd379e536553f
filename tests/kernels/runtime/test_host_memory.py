"""Arrays of the host to tensors and back without a copy."""

import keras
import numpy as np
import pytest
from meshes import device_mesh

from keras_t5gemma2.kernels.runtime import host_memory
from keras_t5gemma2.kernels.runtime.host_memory import host_array, take_over
from keras_t5gemma2.model import loading


def address_of(tensor):
    if keras.config.backend() == "torch":
        return tensor.data_ptr()
    if keras.config.backend() == "jax":
        return tensor.unsafe_buffer_pointer()
    return host_array(tensor).ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "bool"])
def test_tensors_take_the_memory_over(dtype):
    values = loading._empty((3, 5), np.dtype(dtype))
    values[:] = np.arange(15).reshape(3, 5)
    expected = values.copy()
    tensor = take_over(values)
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype
    assert address_of(tensor) == values.ctypes.data
    np.testing.assert_array_equal(host_array(tensor), expected)


@pytest.mark.parametrize("offset", [1, 7])
def test_arrays_that_begin_anywhere_are_taken_too(offset):
    values = np.arange(16 + offset, dtype="float32")[offset:]
    tensor = take_over(values.reshape(4, 4))
    np.testing.assert_array_equal(keras.ops.matmul(tensor, np.eye(4, dtype="float32")), tensor)
    assert float(take_over(np.array(3.0, "float32"))) == 3.0
    assert take_over(np.zeros((0, 3), "float32")).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int32", "bool"])
def test_arrays_of_tensors_are_views(dtype):
    tensor = keras.ops.convert_to_tensor(np.arange(6).reshape(2, 3).astype(dtype))
    array = host_memory.host_array(tensor)
    assert array.dtype == dtype and array.shape == (2, 3)
    assert array.ctypes.data == address_of(tensor)
    np.testing.assert_array_equal(array, np.arange(6).reshape(2, 3).astype(dtype))
    assert host_memory.host_array(keras.ops.ones(())) == 1.0


def test_arrays_of_variables():
    variable = keras.Variable(np.arange(3.0), dtype="bfloat16")
    np.testing.assert_array_equal(host_memory.host_array(variable.value), [0, 1, 2])


def test_a_matrix_in_another_order_is_taken_where_it_is_said():
    values = np.asfortranarray(np.arange(6.0, dtype="float32").reshape(2, 3))
    tensor = host_memory.take_over(values)
    np.testing.assert_array_equal(host_memory.host_array(tensor), values)
    if host_memory.takes_columns():
        assert address_of(tensor) == values.ctypes.data


@pytest.mark.skipif(keras.config.backend() != "jax", reason="Keras distributes on JAX alone")
def test_each_shard_is_read_once():
    mesh, read = device_mesh(2, 4), []
    whole = np.arange(24.0).reshape(4, 6)

    def shard(index):
        read.append(index)
        return whole[index].copy()

    layout = keras.distribution.TensorLayout(("batch", None), mesh)
    found = host_memory.take_over_shards(shard, (4, 6), layout)
    np.testing.assert_array_equal(np.asarray(found), whole)
    assert len(read) == 2  # of eight devices four have the same
    assert {part.data.shape for part in found.addressable_shards} == {(2, 6)}


@pytest.mark.skipif(keras.config.backend() != "jax", reason="asks JAX")
def test_the_memory_of_a_device():
    for name in ("cpu:0", "cpu:7"):
        memory = host_memory.device_memory(name)
        assert memory is None or memory > 0
    with pytest.raises(StopIteration):
        host_memory.device_memory("cpu:8")
