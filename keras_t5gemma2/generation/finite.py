"""Logits that are not finite: noted down while tokens are generated, and an error afterwards.

Each step adds up its logits, which costs far less than to make them. The loop carries the first
slot where the sum is NaN or infinite, row by row. When it has ended, the ids from there on are
`NOT_FINITE`, so that no program returns anything more.
"""

import numpy as np
from keras import ops

NOT_FINITE = -2  # in the place of an id
NEVER = np.iinfo("int32").max  # a slot that no row comes to


def is_broken(logits):
    """(...) bool: where (..., vocabulary) logits are NaN or infinite; those of -inf are meant."""
    # One comparison: it is false of NaN, too. In float16 the sum itself could be infinite.
    return ~(ops.sum(ops.cast(logits, "float32"), axis=-1) < np.inf)


def watched(broken, logits, index):
    """`broken` of `DecodeState` after the logits (B, vocabulary) of slot `index`."""
    return ops.minimum(broken, ops.where(is_broken(logits), index, NEVER))


def marked(ids, broken):
    """Ids (B, L) with `NOT_FINITE` in each row from its first broken slot on.

    Args:
        ids: int32 tensor. What a sampler of the user's gives in another shape stays as it is.
        broken: (B,) or (B * beams,) int32 tensor, as `DecodeState` has it.
    """
    if len(getattr(ids, "shape", ())) != 2:
        return ids
    rows, length = ids.shape
    # Of beams the first one that broke: those that did not are worse, or have ended before it.
    broken = ops.min(ops.reshape(broken, (rows, -1)), axis=1, keepdims=True)
    return ops.where(ops.arange(length, dtype="int32") < broken, ids, NOT_FINITE)


def check(new, row, dtype, before=0):
    """Raises where the model's numbers were not finite.

    Args:
        new: the new ids of a row.
        row: int, its number.
        dtype: string, in which the model computes.
        before: int. New tokens before these.
    """
    if len(new) and new[-1] == NOT_FINITE:
        count = int(np.argmax(np.asarray(new) == NOT_FINITE)) + 1 + before
        raise error(f"The logits of new token {count} of row {row}", dtype)


def error(what, dtype):
    """The `ValueError` that says which numbers are not finite, and what may help.

    Args:
        what: string, the numbers.
        dtype: string, in which the model computes.
    """
    remedy = (
        'Load the model with dtype="bfloat16" or "float32": float16 has no number above 65,504'
        if dtype == "float16"
        else "Weights or adapters may hold such numbers, from a damaged file or from training that "
        "diverged: load them anew, or train with a lower rate"
    )
    return ValueError(f"{what} are not finite: the model computes NaN or infinity. {remedy}")
