"""Loops over blocks in pure `keras.ops`, and what is known of the device."""

import keras
from keras import ops

# Up to this many queries, as in a decoding step, scores are small beside the keys, and shared or
# `Scaled` keys are read as they are. With more queries it pays to convert the keys first.
FEW_QUERIES = 8


def is_on_cpu():
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


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
