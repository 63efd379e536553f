"""Integers back to floats, and products with the matrices that these are."""

import numpy as np
from keras import ops

from keras_t5gemma2.quantization.codes import E4M3

# What the bytes -128 to 127 mean as floats of 8 bits.
_FLOATS = np.arange(-128, 128).astype("int8").view(E4M3).astype("float32")


def times_dequantized(x, stored, dequantized):
    """`x` (..., in) times the float matrix (in, out) that `dequantized` makes of `stored`.

    The matrix is made again for the gradient of `x`; `stored` gets none.
    """

    @ops.custom_gradient
    def product(x, *stored):
        def gradients(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            slopes = ops.matmul(upstream, ops.transpose(dequantized(stored)))
            return (slopes, *(None for _ in stored))

        return ops.matmul(x, dequantized(stored)), gradients

    return product(x, *stored)


def unpacked(packed, length):
    """int8 codes (..., length) of 4 bits, of which each byte of `packed` holds two."""
    eight, lower = ops.cast(8, "int8"), ops.cast(15, "int8")
    low = ops.subtract(ops.bitwise_xor(ops.bitwise_and(packed, lower), eight), eight)
    high = ops.right_shift(packed, ops.cast(4, "int8"))  # the sign comes along
    both = ops.stack([low, high], axis=-1)
    shape = (*ops.shape(packed)[:-1], 2 * packed.shape[-1])
    return ops.reshape(both, shape)[..., :length]


def of_bytes(codes, dtype):
    """Tensor of a dtype, the floats of 8 bits (e4m3) whose bytes are int8 codes."""
    table = ops.cast(ops.convert_to_tensor(_FLOATS), dtype)
    return ops.take(table, ops.cast(codes, "int32") + 128, axis=0)


def of_blocks(codes, scale, zero, axis, block):
    """(codes - zero) * scale, of which there is one for each block along the axis."""
    count, length = scale.shape[axis], codes.shape[axis]
    if count == 1:
        return (codes - zero) * scale
    if missing := count * block - length:
        widths = [(0, 0)] * len(codes.shape)
        widths[axis] = (0, missing)
        codes = ops.pad(codes, widths)
    *around, width = ops.shape(codes)
    shape = (count, block, width) if axis == 0 else (*around, count, block)
    inner = 1 if axis == 0 else -1
    scale, zero = ops.expand_dims(scale, inner), ops.expand_dims(zero, inner)
    matrix = (ops.reshape(codes, shape) - zero) * scale
    matrix = ops.reshape(matrix, (*around, width) if axis else (count * block, width))
    return matrix[:length] if axis == 0 else matrix[..., :length]
