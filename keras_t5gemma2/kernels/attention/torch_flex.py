"""Attention by torch's flex kernel for GPUs, whose segments are joined by their log-sum-exp.

It is compiled around the rule that says which token sees which, and visits the blocks of keys
that the rule leaves: those inside a window, and none of padding alone.
"""

import functools
import warnings

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from keras_t5gemma2.kernels.attention import reference
from keras_t5gemma2.kernels.attention.blocked import ranges
from keras_t5gemma2.kernels.attention.reference import for_each_row
from keras_t5gemma2.kernels.compat.torch import has_triton
from keras_t5gemma2.kernels.runtime import platforms

_BLOCK = 128  # of queries, and of keys; what the kernel takes by default


def why_not(query, segments):
    """Why not the kernel, on a GPU: Triton does not compile for it, or there are few queries."""
    # Of a GPU that is elsewhere nothing else is known.
    if platforms.override() is None and not has_triton():
        return "Triton finds no GPU that it compiles for"
    if reference.suits(query, segments):
        return "scores are so few that they are formed all at once"
    return None


def attend(query, positions, segments, scale, cap=None):
    """See `kernels.attend`."""
    results = [_attend_segment(query, positions, *segment, scale, cap) for segment in segments]
    if len(results) == 1:
        return results[0][0]
    # A query that sees nothing has an output of zeros and a log-sum-exp of minus infinity.
    log_sums = torch.stack([log_sum for _, log_sum in results]).clamp(min=reference.LOWEST)
    shares = log_sums.softmax(dim=0)[..., None]
    outputs = torch.stack([output for output, _ in results])
    return (shares * outputs).sum(dim=0).to(query.dtype)


def _attend_segment(query, positions, keys_values, window, scale, cap):
    """Output (B, N, T, H) and log-sum-exp (B, N, T)."""
    keys, values = (for_each_row(x, query) for x in keys_values[:2])
    there = keys_values.positions
    mask = None
    if there is not None:
        mask = _block_mask(positions, for_each_row(there, query), window)
    kernel = _compiled() if query.device.type == "cuda" else _as_it_is
    rules = {"score_mod": None if cap is None else _capped(cap), "block_mask": mask}
    return kernel(query, keys, values, **rules, scale=scale, enable_gqa=True, return_lse=True)


# One function for each cap: around another one the kernel would be compiled anew.
@functools.cache
def _capped(cap):
    def capped(score, row, head, query, key):
        return cap * torch.tanh(score / cap)

    return capped


# The layers of a stack ask the same, with the same tensors, one after the other.
@functools.lru_cache(maxsize=8)
def _block_mask(positions, key_positions, window):
    """The rule, and per block of queries the blocks of keys that any row of the batch sees."""

    def is_seen(row, head, query, key):
        here, there = positions[row, query], key_positions[row, key]
        seen = there >= 0
        if window.left is not None:
            seen = seen & (here - there <= window.left)
        if window.right is not None:
            seen = seen & (there - here <= window.right)
        return seen

    (_, length), (_, count) = positions.shape, key_positions.shape
    here, there = (
        torch.nn.functional.pad(x, (0, -x.shape[1] % _BLOCK), value=-1)
        for x in (positions, key_positions)
    )
    first, end = ranges(here, _BLOCK, there, _BLOCK, window)
    blocks = torch.arange(there.shape[1] // _BLOCK, device=there.device)
    indices = (first[:, None] + blocks).clamp(max=len(blocks) - 1)
    return BlockMask.from_kv_blocks(
        (end - first).clamp(min=0).int()[None, None],
        indices.int()[None, None],
        BLOCK_SIZE=_BLOCK,
        mask_mod=is_seen,
        seq_lengths=(length, count),
    )


@functools.cache
def _compiled():
    return torch.compile(flex_attention)


def _as_it_is(*args, **kwargs):
    """Not compiled: all scores at once, for the numbers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flex_attention(*args, **kwargs)
