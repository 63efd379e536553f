"""Loops over blocks in pure `keras.ops`, and what is known of the device."""

import keras
from keras import ops

# Up to so many queries, as those of a step of decoding, have scores that are small beside the keys,
# and read shared or `Scaled` keys as they are. More of them are worth making others.
FEW_QUERIES = 8


def is_on_cpu():
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def zero_after(x):
    """A float32 zero that is not known before `x` is.

    Buffers of zeros that wait for nothing XLA for CPUs makes at the start of a program, those of
    all layers at once, and keeps them.
    """
    first = ops.sum(ops.reshape(x, (-1,))[:1])  # a replica without rows has not even one
    return ops.minimum(ops.cast(first > 0, "float32"), 0.0)


def map_blocks(function, x, size, axis):
    """`x` with others in the place of its blocks along an axis.

    Args:
        function: from the number of a block and the block to one of the same shape and dtype,
            and to one more tensor.
        x: tensor of whole blocks.
        size: int, of a block along the axis.
        axis: int.

    Returns:
        A tensor like `x`, and what else the function gave, stacked along a new first axis.
    """
    shape = list(ops.shape(x))
    count, shape[axis] = shape[axis] // size, size

    def of_block(i):
        start = [0] * len(shape)
        start[axis] = i * size
        return function(i, ops.slice(x, start, shape))

    blocks, more = ops.map(of_block, ops.arange(count, dtype="int32"))
    return ops.reshape(ops.moveaxis(blocks, 0, axis), ops.shape(x)), more
