"""The loss from all logits at once, in pure `keras.ops`: the definition of what is right."""

from keras import ops


def linear_cross_entropy(hidden, table, labels, weights, soft_cap=None, targets=()):
    """The sums that `kernels.linear_cross_entropy` gives, from all logits at once."""
    logits = ops.matmul(hidden, ops.transpose(ops.cast(table, hidden.dtype)))
    logits = ops.cast(logits, "float32")
    if soft_cap is not None:
        logits = soft_cap * ops.tanh(logits / soft_cap)
    return cross_entropy(logits, labels, weights, targets)


def cross_entropy(logits, labels, weights, targets=()):
    """The sums that `kernels.cross_entropy` gives, of logits (..., V) and labels (...).

    `targets` are `SoftTargets`, or nothing: then all of the target is the label.
    """
    logits = ops.cast(logits, "float32")
    ids, shares = targets or (ops.expand_dims(labels, -1), 1.0)
    wanted = ops.sum(shares * ops.take_along_axis(logits, ids, axis=-1), axis=-1)
    losses = ops.logsumexp(logits, axis=-1) - wanted
    is_correct = ops.cast(ops.equal(ops.argmax(logits, axis=-1), labels), "float32")
    return ops.sum(weights * losses), ops.sum(weights * is_correct)
