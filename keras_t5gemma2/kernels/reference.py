"""The portable kernels, in pure `keras.ops`: the definition of what is right."""

import functools

from keras import ops

# The score of an unseen token: finite, so that nothing is ever inf - inf.
UNSEEN = -1e30
# Below every real score and far above UNSEEN: a query that sees nothing gets zeros, not a mean.
LOWEST = -1e20


def attend(query, positions, parts, scale, drop=None):
    """See `kernels.attend`. Scores, softmax and sums are float32, rounded once at the end."""
    scaled = ops.cast(query, "float32") * scale
    scores = [_scores(scaled, positions, *part) for part in parts]

    highest = [ops.max(part, axis=-1, keepdims=True) for part in scores]
    top = ops.stop_gradient(ops.maximum(functools.reduce(ops.maximum, highest), LOWEST))
    weights = [ops.exp(part - top) for part in scores]
    total = sum(ops.sum(part, axis=-1, keepdims=True) for part in weights)
    if drop is not None:
        weights = [drop(part) for part in weights]

    summed = sum(_per_head(part, kv.values) for part, (kv, _) in zip(weights, parts, strict=True))
    return ops.cast(summed / ops.maximum(total, 1e-30), query.dtype)


def _scores(query, positions, keys_values, window):
    """(B, N, T, S) float32 scores of one part, `UNSEEN` where its rule hides a token."""
    scores = _per_head(query, ops.swapaxes(keys_values.keys, -1, -2))
    if keys_values.positions is None:
        return scores
    is_seen = seen(positions, keys_values.positions, window)
    return ops.where(ops.expand_dims(is_seen, axis=1), scores, UNSEEN)


def seen(positions, key_positions, window):
    """(B, T, S) bool: whether the query at one position sees the key at another."""
    query, key = ops.expand_dims(positions, axis=2), ops.expand_dims(key_positions, axis=1)
    is_seen = key >= 0
    if window.left is not None:
        is_seen = ops.logical_and(is_seen, query - key <= window.left)
    if window.right is not None:
        is_seen = ops.logical_and(is_seen, key - query <= window.right)
    return is_seen


def _per_head(rows, matrices):
    """(B, N, T, X) times (B, K, X, Y): the G query heads of a key head are rows of one product."""
    _, num_heads, length, width = ops.shape(rows)
    num_kv_heads = matrices.shape[1]
    rows = ops.reshape(rows, (-1, num_kv_heads, num_heads // num_kv_heads * length, width))
    product = ops.matmul(rows, ops.cast(matrices, "float32"))
    return ops.reshape(product, (-1, num_heads, length, ops.shape(matrices)[-1]))


def write_slots(buffer, values, slot, axis):
    """`buffer` with `values` from index `slot` of `axis` on."""
    start = [0] * len(buffer.shape)
    start[axis] = slot
    return ops.slice_update(buffer, start, ops.cast(values, buffer.dtype))


def linear_cross_entropy(hidden, table, labels, weights, soft_cap=None):
    """The sums that `kernels.linear_cross_entropy` gives, from all logits at once."""
    logits = ops.matmul(hidden, ops.transpose(ops.cast(table, hidden.dtype)))
    logits = ops.cast(logits, "float32")
    if soft_cap is not None:
        logits = soft_cap * ops.tanh(logits / soft_cap)
    return cross_entropy(logits, labels, weights)


def cross_entropy(logits, labels, weights):
    """The sums that `kernels.cross_entropy` gives, of logits (..., V) and labels (...)."""
    logits = ops.cast(logits, "float32")
    of_labels = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)
    losses = ops.logsumexp(logits, axis=-1) - ops.squeeze(of_labels, -1)
    is_correct = ops.cast(ops.equal(ops.argmax(logits, axis=-1), labels), "float32")
    return ops.sum(weights * losses), ops.sum(weights * is_correct)
