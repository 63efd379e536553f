"""Attention by torch's flash kernel for CPUs, whose segments are joined by their log-sum-exp.

The kernel makes no scores of the size of the input, forward or backward, and computes in the
dtype of its arguments with float32 sums. It knows no window and no second segment: it runs here on
tiles, each of some queries and of the keys of one segment that these may see.
"""

import functools

import torch

from keras_t5gemma2.kernels.attention import reference
from keras_t5gemma2.kernels.attention.blocked import ranges
from keras_t5gemma2.kernels.attention.reference import for_each_row, seen
from keras_t5gemma2.kernels.attention.scaled import Scaled
from keras_t5gemma2.kernels.compat.torch import flash_attention
from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES
from keras_t5gemma2.kernels.runtime.torch import differentiable

QUERIES = 256  # of a tile, where a rule hides some tokens from some queries
_FLASH, _FLASH_BACKWARD = flash_attention()


def why_not(query, segments, platform):
    """Why not the kernel: the call is not on a CPU, or so small that scores are as quick."""
    if platform != "cpu":
        return "it is for CPUs only"
    if reference.suits(query, segments):
        return "scores are so few that they are formed all at once"
    return None


def why_not_few(query, segments, platform):
    """Why these are not the queries of a step of decoding, on a CPU, without gradients."""
    if platform != "cpu":
        return "it is for CPUs only"
    if query.shape[2] > FEW_QUERIES:
        return f"{query.shape[2]} queries are more than {FEW_QUERIES}"
    tensors = [query, *(x for kv, _ in segments for x in (kv.keys, kv.values))]
    if any(isinstance(x, Scaled) for x in tensors):
        return "the cache is in int8"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "it has no gradient"
    return None


def attend_few(query, positions, segments, scale):
    """See `kernels.attend`: each segment read whole, in as few operations as can be."""
    batch, num_heads, length, width = query.shape
    kv_heads = segments[0][0].keys.shape[1]
    tile = query.reshape(batch, kv_heads, -1, width)
    results, sees = [], []
    for kv, window in segments:
        times, groups = batch // kv.keys.shape[0], num_heads // kv_heads
        bias, sees_any = _hidden(
            positions, kv.positions, window, (batch, length, groups, times), query.dtype
        )
        results.append(_read(tile, kv, bias, scale, times))
        sees.append(sees_any)
    log_sums = torch.stack([log_sum for _, log_sum in results])
    # A query that sees nothing at all gets zeros; a segment of which it sees nothing adds none.
    shares = log_sums.softmax(dim=0) * functools.reduce(torch.maximum, sees)
    outputs = torch.stack([output for output, _ in results])
    mixed = (outputs * shares[..., None]).sum(dim=0)
    return mixed.to(query.dtype).view(query.shape)


def _read(tile, keys_values, bias, scale, times):
    """Output and log-sum-exp of one segment for the rows of a tile (B, K, G * T, H)."""
    if times == 1:
        return _FLASH(tile, keys_values.keys, keys_values.values, attn_mask=bias, scale=scale)
    # R rows of the batch that share a row of keys are more rows of one product.
    batch, kv_heads, rows, width = tile.shape
    tile = tile.view(-1, times, kv_heads, rows, width).transpose(1, 2)
    tile = tile.reshape(-1, kv_heads, times * rows, width)
    output, log_sum = _read(tile, keys_values, bias, scale, 1)
    shape = (-1, kv_heads, times, rows)
    output = output.reshape(*shape, width).transpose(1, 2).reshape(batch, kv_heads, rows, width)
    return output, log_sum.reshape(shape).transpose(1, 2).reshape(batch, kv_heads, rows)


# The layers of a step ask the same, with the same tensors, one after the other.
@functools.lru_cache(maxsize=8)
def _hidden(positions, key_positions, window, sizes, dtype):
    """The bias that hides tokens from the rows of a tile, and per row 1, or 0 if it sees none."""
    batch, length, groups, times = sizes
    if key_positions is None:
        return None, torch.ones((batch, 1, 1))
    if window.left is None and window.right is None:
        is_seen = (key_positions >= 0)[:, None]
        sees = is_seen.any(dim=-1, keepdim=True).repeat_interleave(times, dim=0)
    else:
        is_seen = seen(positions, key_positions.repeat_interleave(times, dim=0), window)
        sees = is_seen.any(dim=-1)[:, None].repeat(1, 1, groups)
        is_seen = is_seen.view(-1, times, 1, length, is_seen.shape[-1])
        is_seen = is_seen.expand(-1, -1, groups, -1, -1).flatten(1, 3)
    bias = torch.zeros(is_seen.shape, dtype=dtype)
    return bias.masked_fill_(~is_seen, torch.finfo(dtype).min)[:, None], sees.float()


def attend(query, positions, segments, scale):
    """See `kernels.attend` and `attention.blocked.attend`."""
    windows = [window for _, window in segments]
    hidden = (kv.positions for kv, _ in segments)
    fixed = (positions, *(p if p is None else for_each_row(p, query) for p in hidden))

    def forward(fixed, *tensors):
        return _forward(_tiles(fixed, tensors, windows), tensors, scale)

    def backward(fixed, tensors, output, log_sums, upstream):
        tiles = _tiles(fixed, tensors, windows)
        return _backward(tiles, tensors, output, log_sums, upstream, scale)

    tensors = [tensor for kv, _ in segments for tensor in (kv.keys, kv.values)]
    return differentiable(forward, backward)(fixed, query, *tensors)


def _tiles(fixed, tensors, windows):
    """Each tile as `(rows, segments)`.

    `rows` is a slice of the queries, `segments` has `(number, columns, bias)` of each segment that
    any of them sees; `bias` (B, 1, rows or 1, columns) is 0, or hides a token.
    """
    (positions, *key_positions), (query, *keys_and_values) = fixed, tensors
    length = query.shape[2]
    is_whole = all(window.left is None and window.right is None for window in windows)
    size = length if is_whole else min(QUERIES, length)
    columns = [
        _columns(positions, there, window, size, keys.shape[2], length)
        for there, window, keys in zip(key_positions, windows, keys_and_values[::2], strict=True)
    ]
    for i, start in enumerate(range(0, length, size)):
        rows = slice(start, min(start + size, length))
        yield (
            rows,
            [
                (
                    segment,
                    slice(*ends[i]),
                    _bias(positions, rows, there, ends[i], window, query.dtype),
                )
                for segment, (ends, there, window) in enumerate(
                    zip(columns, key_positions, windows, strict=True)
                )
                if ends[i][0] < ends[i][1]
            ],
        )


def _columns(positions, key_positions, window, size, count, length):
    """Per tile, the first key that is seen and the end."""
    tiles = -(-length // size)
    if key_positions is None:
        return [(0, count)] * tiles
    block = 64
    there = torch.nn.functional.pad(key_positions, (0, -count % block), value=-1)
    here = torch.nn.functional.pad(positions, (0, -length % size), value=-1)
    first, end = ranges(here, size, there, block, window)
    ends = torch.clamp(torch.stack([first, end], dim=1) * block, max=count)
    return ends.tolist()


def _bias(positions, rows, key_positions, ends, window, dtype):
    if key_positions is None:
        return None
    there = key_positions[:, slice(*ends)]
    is_bounded = window.left is not None or window.right is not None
    here = positions[:, rows] if is_bounded else positions[:, :1]
    is_seen = seen(here, there, window)
    if is_seen.all():
        return None
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype)
    return torch.where(is_seen, torch.zeros((), dtype=dtype), hidden)[:, None]


def _forward(tiles, tensors, scale):
    """The output (B, N, T, H), and the float32 log of each query's sum (B, K, G, T)."""
    query, *keys_and_values = tensors
    kv_heads = keys_and_values[0].shape[1]
    batch, heads, length, width = query.shape
    # In memory token by token, as the heads are put together for the next product.
    output = query.new_empty((batch, length, heads, width)).transpose(1, 2)
    log_sums = query.new_empty((batch, heads, length), dtype=torch.float32)
    for rows, segments in tiles:
        tile = _rows(query, rows, kv_heads)
        results = [
            _FLASH(
                tile,
                *_keys(tile, keys_and_values, segment, columns),
                attn_mask=_repeated(bias, tile),
                scale=scale,
            )
            for segment, columns, bias in segments
        ]
        for whole, of_rows in zip((output, log_sums), _joined(results, tile), strict=True):
            whole[:, :, rows] = of_rows.reshape(whole[:, :, rows].shape)
    return output, log_sums


def _joined(results, tile):
    """One softmax over the segments, from the softmax and the log-sum-exp of each."""
    if not results:
        return torch.zeros_like(tile), tile.new_zeros(tile.shape[:3], dtype=torch.float32)
    # A query that sees nothing has a log-sum-exp near the bias that hides.
    lowest = torch.finfo(tile.dtype).min / 4
    log_sums = torch.stack([log_sum for _, log_sum in results])
    log_sum = log_sums.logsumexp(dim=0)
    sees = log_sum > lowest
    if len(results) == 1:
        output = results[0][0]
    else:
        shares = (log_sums - log_sum).exp()[..., None]
        summed = sum(share * output for share, (output, _) in zip(shares, results, strict=True))
        output = summed.to(tile.dtype)
    if not sees.all():
        output = torch.where(sees[..., None], output, 0.0)
        log_sum = torch.where(sees, log_sum, 0.0)
    return output, log_sum


def _backward(tiles, tensors, output, log_sums, upstream, scale):
    """Gradients of the query and of each segment's keys and values.

    With the output and the sums of all segments together, the kernel's backward pass gives for each
    segment what it adds: nothing in it asks where the sums come from.
    """
    query, *keys_and_values = tensors
    kv_heads = keys_and_values[0].shape[1]
    of_query = torch.zeros_like(query, dtype=torch.float32)
    of_others = [torch.zeros_like(x, dtype=torch.float32) for x in keys_and_values]
    for rows, segments in tiles:
        tile, output_tile, upstream_tile = (
            _rows(x, rows, kv_heads) for x in (query, output, upstream)
        )
        log_sum = log_sums[:, :, rows].reshape(tile.shape[:3])
        for segment, columns, bias in segments:
            slopes = _FLASH_BACKWARD(
                upstream_tile,
                tile,
                *_keys(tile, keys_and_values, segment, columns),
                output_tile,
                log_sum,
                0.0,
                False,
                attn_mask=_repeated(bias, tile),
                scale=scale,
            )
            of_query[:, :, rows] += slopes[0].reshape(of_query[:, :, rows].shape)
            of_others[2 * segment][:, :, columns] += slopes[1]
            of_others[2 * segment + 1][:, :, columns] += slopes[2]
    return [
        gradient.to(x.dtype) for gradient, x in zip([of_query, *of_others], tensors, strict=True)
    ]


def _rows(x, rows, kv_heads):
    """(B, N, T, H) to (B, K, G * rows, H): the query heads of a key head are rows of one tile."""
    return x[:, :, rows].reshape(x.shape[0], kv_heads, -1, x.shape[3])


def _keys(tile, keys_and_values, segment, columns):
    """Keys and values of a segment for the rows of a tile, which may share them."""
    both = (x[:, :, columns] for x in keys_and_values[2 * segment : 2 * segment + 2])
    return [
        # One row of keys for all is read as often as needed, and never copied.
        x.expand(tile.shape[0], -1, -1, -1) if x.shape[0] == 1 else for_each_row(x, tile)
        for x in both
    ]


def _repeated(bias, tile):
    """The bias for the G * rows of a tile."""
    if bias is None or bias.shape[2] == 1:
        return bias
    return bias.repeat(1, 1, tile.shape[2] // bias.shape[2], 1)
