"""The largest logits, exactly, from a copy of the table in 8 bits and a few of its rows.

Rounding a row w of the table to 8 bits takes something away whose norm is known. So the product of
a hidden state x with the copy tells each logit up to |x| times that norm. Rows whose logit may be
among the largest are read in full, others not at all.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

# Rows of the table that lie together are read together: so few of them are quick to find.
_ROWS_OF_A_BLOCK = 8
_BLOCKS_AT_A_TIME = 64
# The room for candidates: of more than this part of all blocks, the whole table is read.
LARGEST_PART = 1 / 16
_ROWS_AT_A_TIME = 2048
# Of sums of float32 numbers in any order, for each of the numbers; twice what it can be.
ROUNDING = 2.0**-23
# Of a number that is rounded to bfloat16; twice what it can be.
HALF = 2.0**-8
# Below the first, numbers that underflow could matter. Where all slack is below the other, sums of
# products are far from overflowing.
TINY, LARGE = 2.0**-100, 2.0**80


class Screen(NamedTuple):
    """A copy of a table (V, D) in 8 bits, and how far from it the table may be.

    Args:
        codes: (V, D) int8.
        scales: (V,) float32, the numbers that codes are multiplied by.
        errors: (V,) float32, at least the norm of what rounding took from the row, and of what
            the order of sums may change.
        norms: (V,) float32, at least the norm of the row.
    """

    codes: Any
    scales: Any
    errors: Any
    norms: Any


class Screened(NamedTuple):
    """Logits of which the largest are there.

    Args:
        logits: (..., V) float32; -inf where a logit is none of the largest.
        is_full: bool scalar. Whether all of them were computed.
    """

    logits: Any
    is_full: Any


def screen_of(table):
    """The `Screen` of a tensor or variable (V, D) of floats, made in one pass through it."""
    table = ops.convert_to_tensor(table)
    rows, width = table.shape
    whole = rows - rows % _ROWS_AT_A_TIME
    parts = []
    if whole:
        pieces = ops.map(_of_rows, ops.reshape(table[:whole], (-1, _ROWS_AT_A_TIME, width)))
        parts.append([ops.reshape(x, (whole, *x.shape[2:])) for x in pieces])
    if whole < rows:
        parts.append(_of_rows(table[whole:]))
    return Screen(*(x[0] if len(x) == 1 else ops.concatenate(x) for x in zip(*parts, strict=True)))


def _of_rows(rows):
    rows = ops.cast(rows, "float32")
    largest = ops.maximum(ops.max(ops.abs(rows), axis=1, keepdims=True), TINY)
    rows, scales = rows * (127 / largest), largest[:, 0] / 127
    codes = ops.round(rows)
    # Of numbers around 1, no square overflows or underflows.
    errors, norms = (ops.sqrt(ops.sum(x * x, axis=1)) * scales for x in (rows - codes, rows))
    return ops.cast(codes, "int8"), scales, *with_rounding(errors, norms, rows.shape[1])


def with_rounding(errors, norms, width):
    """`errors` and `norms` of a `Screen`, made of such as they were computed.

    The norms are sums of rounded numbers, and so are the products that are compared.
    """
    factor = 1 + 4 * width * ROUNDING
    norms = norms * factor
    return (errors + 4 * width * ROUNDING * norms) * factor, norms


def screened_logits(x, table, screen, most, counts, functions):
    """The `Screened` logits of the few rows (..., D).

    They are the full ones where `x` or the table is not finite or very large, and where the
    candidates do not fit into the room for them.

    Args:
        x: (..., D) tensor.
        table: variable (V, D) of float32 or bfloat16.
        screen: `Screen` of the table, of tensors.
        most: int. So many of the largest logits of each row are there, or more.
        counts: (rows, 1) int32 tensor, from 1 to `most`: in its place for each row; or `None`.
        functions: `logits`, `times_codes` and `take_rows` as `ops.reference` has them.
    """
    logits, times_codes, take_rows = functions
    shape, rows = x.shape, table.shape[0]
    x = ops.reshape(x, (-1, shape[-1]))
    size = _rows_of_a_block(rows, most)
    lower, upper, is_safe = bounds(x, table, screen, times_codes)
    least = kth_of_blocks(lower, size, min(most, rows // size), counts)  # (B, 1)
    is_wanted = ~(upper < least)  # where it is NaN, too
    is_wanted = ops.any(ops.reshape(is_wanted, (-1, rows // size, size)), axis=(0, 2))
    number = ops.cumsum(ops.cast(is_wanted, "int32"))  # of each block, from 1
    room = max(1, int(LARGEST_PART * rows / size))
    is_full = (number[-1] > room) | ~is_safe

    def of_blocks():
        return _of_blocks(x, ops.convert_to_tensor(table), number, size, logits, take_rows)

    found = ops.cond(is_full, lambda: logits(x, table), of_blocks)
    return Screened(ops.reshape(found, (*shape[:-1], rows)), is_full)


def bounds(x, table, screen, times_codes):
    """Two (B, V) tensors, which the logits are not below and not above, and whether that holds."""
    is_half = keras.backend.standardize_dtype(table.dtype) != "float32"
    x = ops.cast(ops.cast(x, table.dtype), "float32")
    logits = times_codes(x, screen.codes) * screen.scales
    # Divided first, no square overflows or underflows.
    largest = ops.max(ops.abs(x), axis=-1, keepdims=True)
    norms = largest * ops.sqrt(ops.sum(ops.square(x / largest), axis=-1, keepdims=True))
    slack = norms * screen.errors + TINY
    if is_half:  # the logits themselves may be rounded
        slack = 1.01 * slack + 2 * HALF * ops.abs(logits)
    is_safe = ops.all(slack < LARGE)  # false of NaN, which a maximum may leave out
    return logits - slack, logits + slack, is_safe


def kth_of_blocks(x, size, most, counts):
    """(B, 1): a number that so many of each row's numbers (B, V) reach, close to the best one.

    It is the k-th of the largest numbers of the blocks: to sort all V takes far longer.
    """
    if most == 1:
        return ops.max(x, axis=-1, keepdims=True)
    largest = ops.max(ops.reshape(x, (-1, x.shape[-1] // size, size)), axis=-1)
    largest = ops.top_k(largest, most)[0]
    if counts is None:
        return largest[:, -1:]
    return ops.take_along_axis(largest, ops.clip(counts, 1, most) - 1, axis=1)


def _rows_of_a_block(rows, most):
    sizes = (size for size in (_ROWS_OF_A_BLOCK, 4, 2, 1) if rows % size == 0)
    return next(size for size in sizes if size == 1 or rows // size >= 4 * most)


def _of_blocks(x, table, number, size, logits, take_rows):
    """The logits of the blocks that have a number of their own, others -inf."""
    width, total = min(_BLOCKS_AT_A_TIME, number.shape[0]), number[-1]
    blocks = ops.reshape(table, (-1, size, table.shape[1]))

    def body(start, found):
        wanted = start + 1 + ops.arange(width, dtype="int32")
        here = ops.searchsorted(number, ops.minimum(wanted, total))  # the last one again and again
        rows = ops.reshape(take_rows(blocks, here), (-1, table.shape[1]))
        new = ops.reshape(ops.transpose(logits(x, rows)), (width, size, -1))
        return start + width, ops.scatter_update(found, here[:, None], new)

    # Of a tensor that is there: a constant of this size would be kept all the time.
    nothing = ops.cast(number[:, None, None], "float32") * 0 - float("inf")
    found = ops.broadcast_to(nothing, (number.shape[0], size, x.shape[0]))
    start = ops.zeros((), dtype="int32")
    _, found = ops.while_loop(lambda start, _: start < total, body, (start, found))
    return ops.transpose(ops.reshape(found, (table.shape[0], -1)))
