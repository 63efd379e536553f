"""Attention on torch: its kernels by name, and a cache that is written in place."""

import torch

from keras_t5gemma2.kernels.attention import reference, torch_flash
from keras_t5gemma2.kernels.attention.scaled import Scaled, numbers_and_scales
from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES


def write_slots(buffer, values, slots):
    """`buffer` itself, with `values` (B, K, T, H) in its slots, a scalar or (T,)."""
    # Several beams that start from one row may be one piece of memory: they part here.
    where = slots.reshape(-1).long()
    return buffer.contiguous().index_copy_(2, where, values.to(buffer.dtype))


def rounded(x):
    """See `attention.reference`."""
    x = x.float()
    scales = x.abs().amax(dim=-1, keepdim=True) / 127.0
    return Scaled((x / scales.clamp(min=1e-30)).round_().to(torch.int8), scales)


def weighted_sums(queries, positions, segments, scale, cap=None):
    """See `attention.reference`."""
    scores = [
        _scores(query.float() * scale, positions, *segment, cap)
        for query, segment in zip(queries, segments, strict=True)
    ]
    top = torch.stack([x.amax(dim=-1, keepdim=True) for x in scores]).amax(dim=0)
    top = top.clamp(min=reference.LOWEST)
    weights = [(x - top).exp_() for x in scores]
    total = sum(x.sum(dim=-1, keepdim=True) for x in weights).clamp_(min=1e-30)
    return [_sum(x, kv.values) / total for x, (kv, _) in zip(weights, segments, strict=True)]


def attend_scores(query, positions, segments, scale, cap=None):
    """See `kernels.attend`: for few queries, whose scores are small beside the keys."""
    sums = weighted_sums([query] * len(segments), positions, segments, scale, cap)
    return sum(sums).to(query.dtype)


def _scores(query, positions, keys_values, window, cap):
    numbers, scales = numbers_and_scales(keys_values.keys)
    scores = _per_head(query, numbers.transpose(2, 3))
    if scales is not None:
        scores = scores * _for_each_query(scales, query)
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    if keys_values.positions is None:
        return scores
    key = reference.for_each_row(keys_values.positions, query)[:, None]
    is_seen = key >= 0
    if window.left is not None:
        is_seen = is_seen & (positions[:, :, None] - key <= window.left)
    if window.right is not None:
        is_seen = is_seen & (key - positions[:, :, None] <= window.right)
    return torch.where(is_seen[:, None], scores, reference.UNSEEN)


def _sum(weights, values):
    numbers, scales = numbers_and_scales(values)
    if scales is not None:
        weights = weights * _for_each_query(scales, weights)
    return _per_head(weights, numbers)


def _for_each_query(scales, query):
    """Scales (B, K, S, 1) as (B, N, 1, S)."""
    scales = reference.for_each_row(scales, query)
    return scales.repeat_interleave(query.shape[1] // scales.shape[1], dim=1).transpose(2, 3)


def _per_head(rows, matrices):
    """(B, N, T, X) times (B / R, K, X, Y), float32: see the reference."""
    batch, num_heads, length, width = rows.shape
    shared, num_kv_heads = matrices.shape[:2]
    times, groups = batch // shared, num_heads // num_kv_heads
    rows = rows.reshape(shared, times, num_kv_heads, groups * length, width)
    rows = rows.transpose(1, 2).reshape(shared, num_kv_heads, -1, width)
    product = (rows @ matrices.float()).view(shared, num_kv_heads, times, groups * length, -1)
    return product.transpose(1, 2).reshape(batch, num_heads, length, -1)


def _attend_flex(*args):
    return _flex().attend(*args)


def _why_not_scores(query, *_):
    length = query.shape[2]
    return None if length <= FEW_QUERIES else f"{length} queries are more than {FEW_QUERIES}"


def _why_not_on_gpu(query, segments, platform):
    if platform != "cuda":
        return "it is for cuda only"
    return _flex().why_not(query, segments)


def _flex():
    """Imported where it is used: it brings torch's compiler along."""
    from keras_t5gemma2.kernels.attention import torch_flex

    return torch_flex


# Kernels by name, the better ones first, and whether they cap scores: see `attention.dispatch`.
ATTENTION = {
    "few": (torch_flash.attend_few, torch_flash.why_not_few, False),
    "scores": (attend_scores, _why_not_scores, True),
    "flash": (torch_flash.attend, torch_flash.why_not, False),
    "flex": (_attend_flex, _why_not_on_gpu, True),
}
PLATFORMS = ()  # it is always known where a tensor is
