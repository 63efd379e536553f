"""Arrays of the host to tensors and back without a copy, and how much memory a device has."""

import keras
import ml_dtypes
import numpy as np
from keras import ops

_BYTES_OF_A_VECTOR = 64


def take_over(values):
    """A tensor of `values`, a numpy array that nobody else uses from now on.

    On the CPU the tensor shares the memory of the array. Keras would copy it, and on torch convert
    dtypes that numpy lacks, such as bfloat16, by way of float32.
    """
    take = _TAKE.get(keras.config.backend(), ops.convert_to_tensor)
    return ops.convert_to_tensor(values) if values.ndim == 0 else take(values)


def takes_columns():
    """Whether a matrix that is taken over may be in column-major memory order."""
    return keras.config.backend() == "torch"


def _tensor_of_jax(values):
    import jax

    return jax.device_put(values, may_alias=True)


def _tensor_of_tensorflow(values):
    import tensorflow as tf

    if values.ctypes.data % _BYTES_OF_A_VECTOR or not values.flags.c_contiguous:
        return ops.convert_to_tensor(values)  # TensorFlow's kernels rely on both
    tensor = tf.experimental.dlpack.from_dlpack(_known_to_numpy(values).__dlpack__())
    return tensor if values.dtype.kind != "V" else tf.bitcast(tensor, values.dtype.name)


def _tensor_of_torch(values):
    import torch

    # Keras knows the device.
    device = ops.convert_to_tensor(values[:0]).device
    tensor = torch.from_numpy(_known_to_numpy(values))
    return tensor.view(getattr(torch, values.dtype.name)).to(device)


_TAKE = {"jax": _tensor_of_jax, "tensorflow": _tensor_of_tensorflow, "torch": _tensor_of_torch}


def _known_to_numpy(values):
    """The same bits, as integers where their type is none of numpy's own."""
    return values.view(f"int{8 * values.dtype.itemsize}") if values.dtype.kind == "V" else values


def take_over_shards(read, shape, layout):
    """A tensor of which each device holds its own shard alone, on JAX.

    Args:
        read: function from an index, a tuple of slices, to an array of that shard that nobody
            else uses. It is called once for each shard that a device of this process holds.
        shape: tuple of ints, of the whole.
        layout: `keras.distribution.TensorLayout`.
    """
    import jax

    shards = {}

    def shard(index):
        bounds = tuple((where.start, where.stop) for where in index)
        if bounds not in shards:
            shards[bounds] = read(index)
        return shards[bounds]

    return jax.make_array_from_callback(shape, layout.backend_layout, shard)


def host_array(tensor):
    """A numpy view of a tensor's values: read it only, and drop it before the tensor changes.

    On the CPU nothing is copied. Keras would copy, and convert torch's bfloat16 by way of float32.
    From an accelerator the values are copied, and nothing else keeps the copy.
    """
    if keras.config.backend() == "torch":
        return _array_of_torch(tensor)
    if keras.config.backend() == "jax":
        return _array_of_jax(tensor)
    return _array_of_tensorflow(tensor)


def _array_of_torch(tensor):
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _array_of_jax(array):
    import jax.numpy as jnp

    if any(device.platform != "cpu" for device in array.devices()):
        # An array keeps what it was copied to; this one is gone at once.
        array = jnp.copy(array)
    return np.asarray(array)


def _array_of_tensorflow(tensor):
    import tensorflow as tf

    tensor = tf.convert_to_tensor(tensor)  # of a variable
    if tensor.dtype != tf.bfloat16:
        return np.asarray(memoryview(tensor))
    return np.asarray(memoryview(tf.bitcast(tensor, tf.int16))).view(ml_dtypes.bfloat16)


def device_memory(name):
    """Bytes that JAX can use on the device `name`, such as "gpu:0"; `None` where it cannot tell."""
    import jax

    platform, number = name.split(":")
    device = next(d for d in jax.devices(platform) if d.id == int(number))
    if device.process_index != jax.process_index():  # only its own process can ask
        device = jax.local_devices(backend=device.platform)[0]
    return (device.memory_stats() or {}).get("bytes_limit")
