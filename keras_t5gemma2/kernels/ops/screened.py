"""The largest logits, exactly, from a copy of the table in 8 bits and a few of its rows.

Rounding a row w of the table to 8 bits takes away an error whose norm is known. So the product of
a hidden state x with the copy tells each logit up to |x| times that norm. Only rows whose logit may
be among the largest are read in full.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.quantization.codes import Scheme, quantized

# Rows of the table that lie together are read together: so few of them are cheap to find.
_ROWS_OF_A_BLOCK = 8
_BLOCKS_AT_A_TIME = 64
# Above this part of all blocks, the whole table is read.
LARGEST_PART = 1 / 16
_ROWS_AT_A_TIME = 1 << 14
# Of sums of numbers of float32 in any order, for each of the numbers.
_ROUNDING = 2.0**-23
# Of a number that is rounded to bfloat16, and twice as much as it can be.
HALF = 2.0**-8


class Screen(NamedTuple):
    """A copy of a table (V, D) in 8 bits, and how far from it the table may be.

    Args:
        codes: (V, D) int8.
        scales: (V,) float32, numbers for each code.
        errors: (V,) float32, at least the norm of what rounding took from the row.
        norms: (V,) float32, at least the norm of the row.
    """

    codes: Any
    scales: Any
    errors: Any
    norms: Any


def screen_of(table):
    """The `Screen` of a table, in arrays of the host.

    Args:
        table: (V, D) array of floats.

    Example:

    >>> table = np.array([[0.5, -4.0], [1.0, 3.0]], "float32")
    >>> screen = screen_of(table)
    >>> screen.codes.tolist(), (screen.scales * 127).tolist()
    ([[16, -127], [42, 127]], [4.0, 3.0])
    >>> bool(screen.errors[0] >= np.linalg.norm(table[0] - screen.codes[0] * screen.scales[0]))
    True
    """
    codes, scale, _ = quantized(table, Scheme(8), axis=1, dtype="float32")
    scales = (1.0 / scale).astype("float32")
    errors, norms = np.empty_like(scales), np.empty_like(scales)
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        values = np.asarray(table[rows], "float32")
        norms[rows] = np.linalg.norm(values, axis=1)
        errors[rows] = np.linalg.norm(values - codes[rows] * scales[rows, None], axis=1)
    # The norms, and both products that are compared, are sums of D rounded numbers.
    norms *= 1 + table.shape[1] * _ROUNDING
    errors += 4 * table.shape[1] * _ROUNDING * norms
    return Screen(codes, scales, errors, norms)


def screened_logits(x, table, screen, count, logits, times_codes):
    """Float32 logits (B, V), in each row the `count` largest of them exactly, or more; others -inf.

    Args:
        x: (B, D) tensor.
        table: (V, D) tensor or variable of floats.
        screen: `Screen` of the table, of tensors.
        count: int.
        logits, times_codes: functions, see `ops.reference`.

    Returns:
        As `logits`. Where `x` or `screen` is not finite, a row of NaN.
    """
    size = _rows_of_a_block(table.shape[0], count)
    lower, upper = bounds(x, table, screen, times_codes)
    least = kth_of_blocks(lower, size, count)  # (B, 1)
    is_wanted = ops.any(
        ops.reshape(upper >= least, (-1, table.shape[0] // size, size)), axis=(0, 2)
    )
    number = ops.cumsum(ops.cast(is_wanted, "int32"))  # of each block, from 1
    rest = ops.where(ops.isnan(least), least, -float("inf"))
    rest = rest + ops.zeros((1, table.shape[0]), dtype="float32")
    most = max(1, int(LARGEST_PART * table.shape[0] / size))
    return ops.cond(
        number[-1] <= most,
        lambda: _of_blocks(x, ops.convert_to_tensor(table), number, rest, size, logits),
        lambda: logits(x, table),
    )


def bounds(x, table, screen, times_codes):
    """(B, V) float32 numbers that the logits are not below, and not above."""
    is_half = keras.backend.standardize_dtype(table.dtype) != "float32"
    x = ops.cast(ops.cast(x, table.dtype), "float32")
    logits = times_codes(x, screen.codes) * screen.scales
    slack = ops.norm(x, axis=-1, keepdims=True) * screen.errors
    if is_half:  # the logits themselves are rounded
        slack = slack + 2 * HALF * ops.abs(logits)
    return logits - slack, logits + slack


def kth_of_blocks(x, size, count):
    """(B, 1): a number that `count` of each row's numbers (B, V) reach, close to the best one.

    It is the `count`-th of the largest numbers of the blocks: to sort all V takes far longer.
    """
    if count == 1:
        return ops.max(x, axis=-1, keepdims=True)
    largest = ops.max(ops.reshape(x, (-1, x.shape[-1] // size, size)), axis=-1)
    return ops.top_k(largest, count)[0][:, -1:]


def _rows_of_a_block(rows, count):
    sizes = (size for size in (_ROWS_OF_A_BLOCK, 4, 2, 1) if rows % size == 0)
    return next(size for size in sizes if size == 1 or rows // size >= 4 * count)


def _of_blocks(x, table, number, rest, size, logits):
    """The logits of the blocks that have a number of their own, others those of `rest`."""
    width, total = min(_BLOCKS_AT_A_TIME, number.shape[0]), number[-1]
    blocks = ops.reshape(table, (-1, size, table.shape[1]))

    def body(start, found):
        wanted = start + 1 + ops.arange(width, dtype="int32")
        here = ops.searchsorted(number, ops.minimum(wanted, total))  # the last one again and again
        rows = ops.reshape(ops.take(blocks, here, axis=0), (-1, table.shape[1]))
        new = ops.reshape(ops.transpose(logits(x, rows)), (width, size, -1))
        return start + width, ops.scatter_update(found, here[:, None], new)

    found = ops.broadcast_to(rest, (x.shape[0], table.shape[0]))
    found = ops.reshape(ops.transpose(found), (-1, size, x.shape[0]))
    start = ops.zeros((), dtype="int32")
    _, found = ops.while_loop(lambda start, _: start < total, body, (start, found))
    return ops.transpose(ops.reshape(found, (table.shape[0], -1)))
