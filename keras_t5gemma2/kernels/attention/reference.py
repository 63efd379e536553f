"""Attention that forms all scores, in pure `keras.ops`: the definition of what is right."""

import functools

import keras
from keras import ops

from keras_t5gemma2.kernels.attention.scaled import numbers_and_scales
from keras_t5gemma2.kernels.runtime.dispatch import by_platform
from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES, is_on_cpu

# The score of an unseen token: finite, so that nothing is ever inf - inf.
UNSEEN = -1e30


# Below every real score and far above UNSEEN: a query that sees nothing gets zeros, not a mean.
LOWEST = -1e20

MOST_SCORES = 256 * 256  # of a head


def attend(query, positions, segments, scale, cap=None, drop=None):
    """See `kernels.attend`. Scores, softmax and sums are float32, rounded once at the end."""
    sums = weighted_sums([query] * len(segments), positions, segments, scale, cap, drop)
    return ops.cast(sum(sums), query.dtype)


def why_not(query, segments, _=None):
    """Why all scores at once are not the quickest way, or `None`: for a step, and short inputs.

    From 256 x 256 scores a head on, blocks are as fast on two cores and keep none of them.
    """
    length, counts = query.shape[2], [kv.keys.shape[2] for kv, _ in segments]
    if length is not None and length <= FEW_QUERIES:
        return None
    if length is None or None in counts:
        return "the lengths are not known, and scores may be many"
    if length * sum(counts) <= MOST_SCORES:
        return None
    return f"{length} x {sum(counts)} scores a head are more than 256 x 256"


def suits(query, segments):
    """Whether `why_not` has nothing to say."""
    return why_not(query, segments) is None


def weighted_sums(queries, positions, segments, scale, cap=None, drop=None):
    """Per segment, the sum of its values weighted by one softmax over the tokens of all segments.

    Args:
        queries: a query (B, N, T, H) for each segment, whose widths may differ.
        positions, segments, scale, cap, drop: as `kernels.attend` has them.

    Returns:
        List of float32 (B, N, T, H) tensors.
    """
    weights, total = _exponentials(queries, positions, segments, scale, cap)
    if drop is not None:
        weights = [drop(x) for x in weights]
    return [_sum(x, kv.values) / total for x, (kv, _) in zip(weights, segments, strict=True)]


def attention_weights(query, positions, segments, scale, cap=None):
    """What `weighted_sums` multiplies values by: one softmax over the tokens of all segments.

    Args:
        query: (B, N, T, H) tensor.
        positions, segments, scale, cap: as `kernels.attend` has them. Values are not read.

    Returns:
        Per segment a float32 (B, N, T, S) tensor; zeros where a query sees nothing.
    """
    weights, total = _exponentials([query] * len(segments), positions, segments, scale, cap)
    return [x / total for x in weights]


def _exponentials(queries, positions, segments, scale, cap):
    """Per segment the (B, N, T, S) numerators of the softmax, and its (B, N, T, 1) denominator."""
    scores = [
        _scores(ops.cast(query, "float32") * scale, positions, *segment, cap)
        for query, segment in zip(queries, segments, strict=True)
    ]
    highest = [ops.max(x, axis=-1, keepdims=True) for x in scores]
    top = ops.stop_gradient(ops.maximum(functools.reduce(ops.maximum, highest), LOWEST))
    weights = [ops.exp(x - top) for x in scores]
    return weights, ops.maximum(sum(ops.sum(x, axis=-1, keepdims=True) for x in weights), 1e-30)


def _scores(query, positions, keys_values, window, cap):
    """(B, N, T, S) float32 scores of one segment, `UNSEEN` where its rule hides a token."""
    numbers, scales = numbers_and_scales(keys_values.keys)
    scores = _per_head(query, numbers, "xth,xsh->xts")
    if scales is not None:
        scores = scores * _for_each_query(scales, query)
    if cap is not None:  # before anything is hidden
        scores = cap * ops.tanh(scores / cap)
    if keys_values.positions is None:
        return scores
    there = for_each_row(keys_values.positions, query)
    is_seen = seen(positions, there, window)
    return ops.where(ops.expand_dims(is_seen, axis=1), scores, UNSEEN)


def _sum(weights, values):
    """(B, N, T, H) of weights (B, N, T, S)."""
    numbers, scales = numbers_and_scales(values)
    if scales is not None:
        weights = weights * _for_each_query(scales, weights)
    return _per_head(weights, numbers, "xts,xsh->xth")


def _for_each_query(scales, query):
    """Scales (B, K, S, 1) as (B, N, 1, S)."""
    groups = query.shape[1] // scales.shape[1]
    return ops.swapaxes(ops.repeat(for_each_row(scales, query), groups, axis=1), 2, 3)


def for_each_row(x, query):
    """`x`, whose rows R rows of the query share, once for each of them."""
    shared, rows = x.shape[0], query.shape[0]
    if shared == rows or shared is None or rows is None:
        return x
    return ops.repeat(x, rows // shared, axis=0)


def _per_head(rows, matrices, product):
    """The product of (B, N, T, X) with (B, K, S, H), summed over the axis that they share.

    The G query heads of a key head are rows of one product, and so are the rows of the batch
    where R of them share one matrix. Batch and key heads are one axis, and none where there is
    one of both: buffers that a loop carries in this shape are read as they are, and written in
    place (a compiler makes copies of them for any other).
    """
    batch, num_heads, length, width = ops.shape(rows)
    shared, num_kv_heads, count, head_width = ops.shape(matrices)
    groups = num_heads // matrices.shape[1]
    is_shared = isinstance(batch, int) and isinstance(shared, int) and batch != shared
    if is_shared:
        shape = (shared, batch // shared, num_kv_heads, groups * length, width)
        rows = ops.swapaxes(ops.reshape(rows, shape), 1, 2)
    rows = ops.reshape(rows, (shared * num_kv_heads, -1, width))
    matrices = ops.reshape(matrices, (shared * num_kv_heads, count, head_width))
    if matrices.shape[0] == 1:
        rows, matrices = ops.squeeze(rows, 0), ops.squeeze(matrices, 0)
        product = product.replace("x", "")
    width = count if product.endswith("s") else head_width
    result = _widened_product if _is_fused(matrices) else _product
    result = result(product, rows, matrices, width)
    if is_shared:
        shape = (shared, num_kv_heads, batch // shared, groups * length, width)
        result = ops.swapaxes(ops.reshape(result, shape), 1, 2)
    return ops.reshape(result, (-1, num_heads, length, width))


def _product(product, rows, matrices, _):
    return ops.einsum(product, rows, ops.cast(matrices, "float32"))


def _is_fused(matrices):
    """Whether XLA would fuse the conversion of these numbers to floats with other operations."""
    if keras.config.backend() == "torch" or matrices.dtype != "int8":
        return False
    # Elsewhere a condition costs more than it saves: its outcome goes to the host.
    return is_on_cpu()


def _widened_product(product, rows, matrices, width):
    """`_product`, which on CPUs is in a `cond`."""

    def of(function):
        return lambda rows, matrices: function(product, rows, matrices, width)

    return by_platform({"cpu": of(_product_in_cond)}, of(_product), rows, matrices)


def _product_in_cond(product, rows, matrices, width):
    """`_product` in a data-dependent `cond`, so that XLA can neither fuse nor hoist it.

    XLA for CPUs hoists the conversion of what a loop does not change, which then takes as much
    memory as floats; and fused with the write of a token it makes a copy of the buffer.
    """
    is_true = ops.reshape(rows, (-1,))[0] * 0.0 != 1.0  # of infinities and NaN too
    shape = (*ops.shape(rows)[:-1], width)
    return ops.cond(
        is_true,
        lambda: _product(product, rows, matrices, width),
        lambda: ops.zeros(shape, "float32"),
    )


def seen(positions, key_positions, window):
    """(B, T, S) bool: whether the query at one position sees the key at another."""
    query, key = ops.expand_dims(positions, axis=2), ops.expand_dims(key_positions, axis=1)
    is_seen = key >= 0
    if window.left is not None:
        is_seen = ops.logical_and(is_seen, query - key <= window.left)
    if window.right is not None:
        is_seen = ops.logical_and(is_seen, key - query <= window.right)
    return is_seen
