"""From numpy to tensors without a detour."""

import keras
from keras import ops

_BYTES_OF_A_VECTOR = 64


def take_over(values):
    """A tensor of `values`, a numpy array that nobody else uses from now on.

    Where the tensor is in the memory of the CPU, it is in that of the array. Keras would copy it,
    and for torch take what numpy does not know itself, such as bfloat16, by way of float32.
    """
    take = _TAKE.get(keras.config.backend(), ops.convert_to_tensor)
    return ops.convert_to_tensor(values) if values.ndim == 0 else take(values)


def takes_columns():
    """Whether a matrix that is taken over may lie in memory column by column."""
    return keras.config.backend() == "torch"


def _by_jax(values):
    import jax

    return jax.device_put(values, may_alias=True)


def _by_tensorflow(values):
    import tensorflow as tf

    if values.ctypes.data % _BYTES_OF_A_VECTOR or not values.flags.c_contiguous:
        return ops.convert_to_tensor(values)  # TensorFlow's kernels rely on both
    tensor = tf.experimental.dlpack.from_dlpack(_known_to_numpy(values).__dlpack__())
    return tensor if values.dtype.kind != "V" else tf.bitcast(tensor, values.dtype.name)


def _by_torch(values):
    import torch

    # Keras knows the device.
    device = ops.convert_to_tensor(values[:0]).device
    tensor = torch.from_numpy(_known_to_numpy(values))
    return tensor.view(getattr(torch, values.dtype.name)).to(device)


_TAKE = {"jax": _by_jax, "tensorflow": _by_tensorflow, "torch": _by_torch}


def _known_to_numpy(values):
    """The same bits, as integers where their type is none of numpy's own."""
    return values.view(f"int{8 * values.dtype.itemsize}") if values.dtype.kind == "V" else values


def take_over_parts(read, shape, layout):
    """A tensor of which each device holds its part alone, on JAX.

    Args:
        read: function from an index, a tuple of slices, to an array of that part that nobody
            else uses. It is called once for each part that a device of this process holds.
        shape: tuple of ints, of the whole.
        layout: `keras.distribution.TensorLayout`.
    """
    import jax

    parts = {}

    def part(index):
        bounds = tuple((where.start, where.stop) for where in index)
        if bounds not in parts:
            parts[bounds] = read(index)
        return parts[bounds]

    return jax.make_array_from_callback(shape, layout.backend_layout, part)
