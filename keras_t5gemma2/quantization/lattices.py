"""Matrices rounded to what they will be once they are quantized, with a gradient for training.

What is computed here with `keras.ops` gives bit for bit what `codes.quantized` and the layers of
integers give: weights that are trained this way do not change when they are quantized.
"""

from typing import Any

import ml_dtypes
import numpy as np
from keras import ops

from keras_t5gemma2.quantization.codes import FP8, LARGEST_E4M3, Q4_0, SYMMETRIC
from keras_t5gemma2.quantization.dequantize import of_blocks

_HUGE = 3e38  # more than any number of a matrix


def rounded(matrix, scheme, axis, scale_dtype, dtype):
    """The matrix that quantized weights stand for; its gradient is 0 where they are clipped.

    Args:
        matrix: (rows, columns) floats, or some rows of a table (..., columns).
        scheme: `Scheme`.
        axis: 0 or -1. Along which axis numbers share a scale.
        scale_dtype: string, of the stored scales: that of the variable.
        dtype: string, of the result.

    Returns:
        A tensor of the same shape.
    """

    x = ops.convert_to_tensor(matrix)
    codes, scale, zero, is_inside = lattice(ops.stop_gradient(x), scheme, axis, scale_dtype)
    parts = [ops.cast(part, dtype) for part in (codes, scale)]
    if zero is None:
        value = parts[0] / parts[1]
    else:
        value = of_blocks(*parts, ops.cast(zero, dtype), axis, scheme.block)
    # Adds 0 to it, and exactly that: finite numbers take themselves away. What is left is a slope.
    slope = ops.cast(ops.where(is_inside, x, ops.zeros_like(x)), dtype)
    return ops.stop_gradient(value) + (slope - ops.stop_gradient(slope))


def lattice(x, scheme, axis, scale_dtype):
    """Codes, scales and zero points of a matrix, as `codes.quantized` has them, but not packed.

    Returns:
        float32 codes as `x`, scales and zero points (or `None`), and bools as `x`: where a number
        lies in the range of the codes.
    """
    x = ops.cast(x, "float32")
    if scheme.block is None:
        return _of_one_scale(x, scheme, axis, scale_dtype)
    blocks, inner = _in_blocks(x, axis, scheme.block)
    find = {Q4_0: _q4_0, SYMMETRIC: _symmetric}.get(scheme.kind, _with_zero)
    scale, zero, exact = find(blocks, inner, scheme, scale_dtype)
    lowest = -(2 ** (scheme.bits - 1))
    codes = ops.clip(exact, lowest, -lowest - 1)
    is_inside = _out_of_blocks(codes == exact, axis, x)
    squeezed = ops.squeeze(scale, inner), ops.squeeze(zero, inner)
    return _out_of_blocks(codes, axis, x), *squeezed, is_inside


def _of_one_scale(x, scheme, axis, scale_dtype):
    is_float = scheme.kind == FP8
    top = LARGEST_E4M3 if is_float else 2 ** (scheme.bits - 1) - 1
    size = ops.max(ops.abs(x), axis=axis, keepdims=True)
    scale = ops.where(size > 0, _hidden(top, size) / ops.where(size > 0, size, 1.0), 1.0)
    scale = ops.minimum(scale, float(ml_dtypes.finfo(np.dtype(scale_dtype)).max))
    scale = _stored(scale, scale_dtype)
    if is_float:
        numbers = ops.clip(x * scale, -top, top)
        return _to_e4m3(numbers), scale, None, numbers == x * scale
    exact = ops.round(x * scale)
    codes = ops.clip(exact, -top - (scheme.bits == 4), top)
    return codes, scale, None, codes == exact


def _to_e4m3(x):
    """The nearest floats of 8 bits, as float32: multiples of a power of two by the exponent."""
    size, step = ops.abs(x), ops.full_like(x, 2.0**-9)
    for exponent in range(-5, 9):  # each doubles the step from 2 ** exponent on
        step = ops.where(size >= 2.0**exponent, 2.0 ** (exponent - 3), step)
    return ops.round(x / step) * step


def _with_zero(blocks, inner, scheme, scale_dtype):
    """A scale and a zero point of each block, as Keras has them."""
    low = ops.minimum(ops.min(blocks, axis=inner, keepdims=True), 0.0)
    high = ops.maximum(ops.max(blocks, axis=inner, keepdims=True), 0.0)
    lowest, steps = -(2 ** (scheme.bits - 1)), 2**scheme.bits - 1
    wide = high - low
    scale = _stored(wide / _hidden(steps, wide), scale_dtype)
    scale = ops.where(scale == 0, 1.0, scale)
    zero = ops.clip(ops.round(-low / scale) + lowest, lowest, lowest + steps)
    return scale, zero, ops.round(blocks / scale) + zero


def _q4_0(blocks, inner, scheme, scale_dtype):
    """GGUF's Q4_0: the number farthest from 0 gets the code -8."""
    place = ops.argmax(ops.abs(blocks), axis=inner, keepdims=True)
    far = ops.take_along_axis(blocks, place, axis=inner)
    scale = far / -8.0  # a power of two: exact
    inverse = _hidden(1.0, scale) / ops.where(scale == 0, 1.0, scale)
    inverse = ops.where(scale == 0, 0.0, inverse)
    # Rounded before it is added to: compilers make one operation of a product and a sum.
    product = blocks * inverse
    product = ops.where(ops.abs(product) < _HUGE, product, 0.0)
    exact = ops.trunc(product + 8.5) - 8.0
    scale = _stored(ops.cast(ops.cast(scale, "float16"), "float32"), scale_dtype)
    return scale, ops.zeros_like(scale), exact


def _symmetric(blocks, inner, scheme, scale_dtype):
    """torchao's symmetric blocks: codes from -8 to 7, of which 7.5 would be the largest number."""
    size = ops.max(ops.abs(blocks), axis=inner, keepdims=True)
    scale = _stored(size / _hidden(7.5, size), scale_dtype)
    scale = ops.where(scale == 0, 1.0, scale)
    return scale, ops.zeros_like(scale), ops.round(blocks * (_hidden(1.0, scale) / scale))


def _stored(scale, dtype):
    """Scales as a variable of this dtype keeps them."""
    return ops.cast(ops.cast(scale, dtype), "float32")


def _hidden(value, like):
    """A constant that XLA does not know to be one: it would multiply by the inverse of it.

    In the same way it would divide by a number in place of a product with its inverse.
    """
    return ops.where(like < _HUGE, float(value), -1.0)


def _in_blocks(x, axis, block):
    """`x` with its axis cut into blocks, padded with zeros, and the axis inside of a block."""
    length: Any = x.shape[axis]
    block = min(block, length)
    if missing := -length % block:
        widths = [(0, 0)] * len(x.shape)
        widths[axis] = (0, missing)
        x = ops.pad(x, widths)
    if axis == 0:
        return ops.reshape(x, (-1, block, x.shape[1])), 1
    shape = (*ops.shape(x)[:-1], (length + missing) // block, block)
    return ops.reshape(x, shape), -1


def _out_of_blocks(blocks, axis, like):
    length = like.shape[axis]
    if axis == 0:
        return ops.reshape(blocks, (-1, like.shape[1]))[:length]
    shape = (*ops.shape(like)[:-1], blocks.shape[-2] * blocks.shape[-1])
    return ops.reshape(blocks, shape)[..., :length]
