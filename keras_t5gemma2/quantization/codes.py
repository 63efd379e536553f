"""Float matrices to integers of few bits, a piece at a time; the layouts are Keras's own.

Numbers along one axis of a matrix share a scale: all of a column of a kernel, or blocks of them.
Without blocks a number is `code / scale`; with them it is `(code - zero) * scale`, so that a
block need not be symmetric around 0. Codes of 4 bits stand two to a byte along the last axis, the
first of the two in the lower bits.
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np

# Of a large matrix, so many numbers are float32 at the same time.
_NUMBERS_AT_A_TIME = 1 << 18


# Kinds of blocks of 4 bits without zero points: GGUF's Q4_0, and torchao's symmetric one.
Q4_0, SYMMETRIC = "q4_0", "int4_sym"
# 8 bits that are a float: a sign, 4 bits of exponent and 3 of mantissa; the largest is 448.
FP8 = "fp8"
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST_E4M3 = 448.0


class Scheme(NamedTuple):
    """How a matrix is quantized.

    Args:
        bits: 8 or 4.
        block: int. How many numbers share a scale; `None` for all along the axis.
        kind: "" for a zero point for each block; `Q4_0` or `SYMMETRIC`, where zero points are 0;
            `FP8`, of which the codes are the bytes of floats of 8 bits.
    """

    bits: int
    block: int | None = None
    kind: str = ""


class Codes(NamedTuple):
    """A quantized matrix, of (rows, columns) and of G blocks along its axis."""

    codes: np.ndarray  # int8, (rows, columns), or (rows, half the columns) of 4 bits
    scale: np.ndarray  # without blocks one for each number of the other axis; else G for each
    zero: np.ndarray | None  # int8, as `scale`


def quantized(matrix, scheme, axis, dtype, empty=np.empty, release=lambda: None):
    """The `Codes` of a float matrix.

    Args:
        matrix: (rows, columns) array of any float dtype, which may be a view of a file.
        scheme: `Scheme`.
        axis: 0 or 1. Along which axis numbers share a scale.
        dtype: of the scales. The codes are those of the scales as they are rounded to it.
        empty: function of a shape and a dtype, what makes the array of the codes.
        release: function without arguments, called after each piece of `matrix` that was read.

    Example: the largest number of each column gets the code 127.

    >>> found = quantized(np.array([[0.5, -4.0], [1.0, 3.0]]), Scheme(8), axis=0, dtype="float32")
    >>> found.codes.tolist(), found.scale.tolist()
    ([[64, -127], [127, 95]], [127.0, 31.75])
    """
    # Here the axis is always the first one.
    values = matrix if axis == 0 else matrix.T
    pieces = _pieces(values, scheme.block)
    low, high = _ranges(values, scheme.block or len(values), pieces, release, scheme.kind)
    scale, zero = _scales(low, high, scheme, np.dtype(dtype))
    # What codes are made with: GGUF makes them before it rounds the scales.
    exact = low / -8 if scheme.kind == Q4_0 else scale

    shape = (*matrix.shape[:1], (matrix.shape[1] + 1) // 2) if scheme.bits == 4 else matrix.shape
    packed = empty(shape, np.dtype("int8"))
    target = packed if axis == 0 else packed.T
    for rows, columns in pieces:
        codes = _codes(values[rows, columns], rows, columns, exact, zero, scheme)
        if scheme.bits == 4:
            codes = _pack(codes, 1 - axis)
            rows, columns = (rows, _half(columns)) if axis == 0 else (_half(rows), columns)
        target[rows, columns] = codes
        release()
    if scheme.block is None:
        return Codes(packed, scale[0], None)
    scale, zero = ((x if axis == 0 else np.ascontiguousarray(x.T)) for x in (scale, zero))
    return Codes(packed, scale, zero.astype("int8"))


def _pieces(values, block):
    """Pairs of slices, of whole blocks, that lie one after another in memory."""
    axis = int(np.argmax(np.abs(values.strides)))
    multiple = 2 * (block or 1) if axis == 0 else 2
    length = values.shape[axis]
    step = max(1, _NUMBERS_AT_A_TIME * length // max(1, values.size) // multiple) * multiple
    cuts = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    whole = slice(0, values.shape[1 - axis])
    return [(cut, whole) if axis == 0 else (whole, cut) for cut in cuts]


def _ranges(values, block, pieces, release, kind):
    """The lowest and the highest number of each block, 0 among them: float32 (G, columns).

    Of `Q4_0` the first is the number farthest from 0, the first one of several.
    """
    shape = (-(-len(values) // block), values.shape[1])
    low, high = np.zeros(shape, "float32"), np.zeros(shape, "float32")
    for rows, columns in pieces:
        part = np.asarray(values[rows, columns], "float32")
        size = min(block, len(part))
        missing = -len(part) % size
        part = np.pad(part, [(0, missing), (0, 0)]) if missing else part
        part = part.reshape(-1, size, part.shape[1])
        first = rows.start // block
        where = slice(first, first + len(part)), columns
        if kind == Q4_0:
            place = np.abs(part).argmax(axis=1)[:, None]
            low[where] = np.take_along_axis(part, place, axis=1)[:, 0]
            continue
        low[where] = np.minimum(low[where], part.min(axis=1))
        high[where] = np.maximum(high[where], part.max(axis=1))
        release()
    return low, high


def _scales(low, high, scheme, dtype):
    """Scales in `dtype`, and zero points in float32 or `None`, both (G, columns)."""
    limits = ml_dtypes.finfo(dtype)
    if scheme.block is None:
        largest = np.maximum(-low, high)
        top = LARGEST_E4M3 if scheme.kind == FP8 else 2 ** (scheme.bits - 1) - 1
        scale = np.divide(top, largest, out=np.ones_like(largest), where=largest > 0)
        return np.minimum(scale, float(limits.max)).astype(dtype), None
    if scheme.kind:
        scale = np.maximum(-low, high) / np.float32(7.5)
        if scheme.kind == Q4_0:
            scale = (low / -8).astype("float16")
        scale = scale.astype(dtype)
        scale[scale == 0] = 1
        return scale, np.zeros_like(low)
    lowest, steps = -(2 ** (scheme.bits - 1)), 2**scheme.bits - 1
    scale = ((high - low) / steps).astype(dtype)
    scale[scale == 0] = 1
    zero = np.rint(-low / scale.astype("float32")) + lowest
    return scale, np.clip(zero, lowest, lowest + steps)


def _codes(part, rows, columns, scale, zero, scheme):
    top = 2 ** (scheme.bits - 1) - 1
    part = np.asarray(part, "float32")
    scale = scale[:, columns].astype("float32")
    if scheme.kind == FP8:
        numbers = np.clip(part * scale, -LARGEST_E4M3, LARGEST_E4M3)
        return numbers.astype(E4M3).view("int8")
    if zero is None:
        return np.clip(np.rint(part * scale), -top - (scheme.bits == 4), top).astype("int8")
    block = np.arange(rows.start, rows.stop) // scheme.block
    if scheme.kind:
        with np.errstate(divide="ignore"):
            inverse = np.where(scale == 0, 0, np.float32(1) / scale)[block]
        # GGUF rounds halves up, and torchao to the even number.
        exact = (
            np.trunc(part * inverse + np.float32(8.5)) - 8
            if scheme.kind == Q4_0
            else (np.rint(part * inverse))
        )
        return np.clip(exact, -top - 1, top).astype("int8")
    part = np.rint(part / scale[block])
    part += zero[:, columns][block]
    return np.clip(part, -top - 1, top).astype("int8")


def _pack(codes, axis):
    if codes.shape[axis] % 2:
        codes = np.pad(codes, [(0, int(i == axis)) for i in range(2)])
    low, high = (codes[::2], codes[1::2]) if axis == 0 else (codes[:, ::2], codes[:, 1::2])
    return (low & 15) | (high << 4)


def _half(cut):
    return slice(cut.start // 2, (cut.stop + 1) // 2)
