"""Tokens written into the slots of a buffer, in pure `keras.ops`."""

from keras import ops


def write_slots(buffer, values, slots):
    """`buffer` (B, K, S, H) with `values` (B, K, T, H) in its slots, a scalar or (T,)."""
    # In the shape that `_per_head` reads.
    *batch, count, width = ops.shape(buffer)
    is_one = buffer.shape[0] == buffer.shape[1] == 1
    shape = (count, width) if is_one else (batch[0] * batch[1], count, width)
    values = ops.reshape(ops.cast(values, buffer.dtype), (*shape[:-2], -1, width))
    written = put(ops.reshape(buffer, shape), values, slots, axis=len(shape) - 2)
    return ops.reshape(written, (*batch, count, width))


def put(buffer, values, slots, axis):
    """`buffer` with the T entries of `values` along `axis` in its slots, a scalar or (T,)."""
    if len(slots.shape) == 0:
        start = [slots if i == axis else 0 for i in range(len(buffer.shape))]
        return ops.slice_update(buffer, start, values)
    # One by one, as they need not be in a row. There are few.
    for i, value in enumerate(ops.split(values, slots.shape[0], axis=axis)):
        buffer = put(buffer, value, slots[i], axis)
    return buffer
