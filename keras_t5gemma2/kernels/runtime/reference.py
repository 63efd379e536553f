"""Loops over blocks in pure `keras.ops`, and what is known of the device."""

import hashlib

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.kernels.runtime import platforms

# Up to this many queries, as in a decoding step, scores are small beside the keys, and shared or
# `Scaled` keys are read as they are. With more queries it pays to convert the keys first.
FEW_QUERIES = 8
# Of a matrix in half precision, as many rows are float32 at the same time.
_ROWS_AT_A_TIME = 1 << 14
_MARKED = 20_26  # a seed


def is_on_cpu():
    """Whether all devices are CPUs, or the platform that programs are made for is one."""
    if (platform := platforms.override()) is not None:
        return platform == "cpu"
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def is_one_cpu(_=None):
    """Whether what is computed with a tensor is on one CPU, and not spread over devices."""
    return keras.distribution.distribution() is None and is_on_cpu()


def platform_at_hand(_=None):
    """The platform, of `platforms.PLATFORMS`, that things are computed on."""
    return platforms.override() or ("cpu" if is_on_cpu() else "cuda")


def platform_of(_):
    """The platform of a tree of tensors, or `None`; see `runtime.jax.platform_of`."""
    return platform_at_hand()


def by_platform(functions, default, *tensors):
    """What the function of a platform gives for the tensors; see `runtime.jax.by_platform`."""
    return functions.get(platform_at_hand(), default)(*tensors)


def mark_of(tensor):
    """What `has_mark` compares to tell whether the numbers of a matrix have changed.

    It is the product with a random vector, row by row. Of a changed row it stays the same to the
    bit by a chance of one in thousands, or where the change is less than rounding.
    """
    rows, width = tensor.shape
    vector = np.random.default_rng(_MARKED).standard_normal((width, 1)).astype("float32")
    is_whole = keras.backend.standardize_dtype(tensor.dtype) == "float32"
    size = rows if is_whole else _ROWS_AT_A_TIME
    sums = [
        ops.convert_to_numpy(
            ops.matmul(ops.cast(ops.stop_gradient(tensor[start : start + size]), "float32"), vector)
        )
        for start in range(0, rows, size)
    ]
    digest = hashlib.blake2b(digest_size=16)
    for part in sums:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def has_mark(tensor, mark):
    """Whether the numbers of a matrix are still those that `mark_of` gave the mark for."""
    return mark_of(tensor) == mark


def zero_after(x):
    """A float32 zero that depends on `x`.

    XLA for CPUs allocates buffers of constant zeros at the start of a program, those of all layers
    at once, and keeps them.
    """
    first = ops.sum(ops.reshape(x, (-1,))[:1])  # a replica without rows has not even one
    return ops.minimum(ops.cast(first > 0, "float32"), 0.0)


def map_blocks(function, x, size, axis):
    """`x` with each of its blocks along an axis replaced by `function` of it.

    Args:
        function: from the number of a block and the block to a block of the same shape and dtype
            and one more tensor.
        x: tensor of whole blocks.
        size: int, of a block along the axis.
        axis: int.

    Returns:
        A tensor like `x`, and the function's second results stacked along a new first axis.
    """
    shape = list(ops.shape(x))
    count, shape[axis] = shape[axis] // size, size

    def of_block(i):
        start = [0] * len(shape)
        start[axis] = i * size
        return function(i, ops.slice(x, start, shape))

    blocks, more = ops.map(of_block, ops.arange(count, dtype="int32"))
    return ops.reshape(ops.moveaxis(blocks, 0, axis), ops.shape(x)), more
