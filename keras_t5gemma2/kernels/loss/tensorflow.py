"""The loss over chunks of tokens on TensorFlow, which makes its gradient on the way."""

import tensorflow as tf


def sums_over_chunks(hidden, table, labels, weights, targets, soft_cap, size, wanted):
    """See `kernels.linear_cross_entropy`: the loss and the correct tokens, summed.

    Args:
        hidden: (chunks * size, D) tensor.
        table: (V, D) tensor.
        labels, weights: (chunks * size,) tensors.
        targets: `kernels.SoftTargets` of (chunks * size, few) tensors, or nothing.
        soft_cap: float or `None`.
        size: int or scalar tensor. Tokens whose logits are formed at once.
        wanted: two bools, whether to make the gradients of `hidden` and of `table`.
    """
    rows = labels, weights, targets, soft_cap, size, wanted
    # Of a variable TensorFlow would ask for the gradient once more.
    table = tf.convert_to_tensor(table)
    if not any(wanted):
        return _loop(hidden, table, *rows)[:2]

    @tf.custom_gradient
    def sums(hidden, table):
        loss, correct, *gradients = _loop(hidden, table, *rows)

        def backward(upstream, _):
            return [
                tf.cast(gradient * upstream, like.dtype) if is_wanted else None
                for gradient, like, is_wanted in zip(
                    gradients, (hidden, table), wanted, strict=True
                )
            ]

        return (loss, correct), backward

    return sums(hidden, table)


def _loop(hidden, table, labels, weights, targets, soft_cap, size, wanted):
    """Loss and correct tokens summed, and the float32 gradients that are wanted."""
    count = tf.shape(hidden)[0] // size
    width, cast = hidden.shape[1], tf.cast(table, hidden.dtype)
    hidden = tf.reshape(hidden, (count, size, width))
    labels, weights = (tf.reshape(x, (count, size)) for x in (labels, weights))
    # A label is all of its token's target.
    ids, shares = targets or (labels, tf.ones_like(weights))
    few = ids.shape[1] if targets else 1
    ids, shares = (tf.reshape(x, (count, size, few)) for x in (ids, shares))

    def body(i, loss, correct, of_hidden, of_table):
        rows = hidden[i], labels[i], weights[i], ids[i], shares[i]
        fresh, slopes, of_targets = _chunk(*rows, cast, soft_cap)
        by_token = weights[i][:, None]
        if is_whole:
            each = tf.repeat(tf.range(size), few)
            places = tf.stack([each, tf.reshape(ids[i], [-1])], axis=1)
            slopes = tf.tensor_scatter_nd_add(slopes, places, tf.reshape(of_targets, [-1]))
        if wanted[0]:
            product = _times_table(slopes, cast)
            if not is_whole:
                product += of_targets * tf.gather(cast, labels[i])
            of_hidden = of_hidden.write(i, product * by_token)
        if wanted[1]:
            weighted = tf.cast(hidden[i], "float32") * by_token
            of_table += tf.matmul(slopes, weighted, transpose_a=True)
        return i + 1, loss + fresh[0], correct + fresh[1], of_hidden, of_table

    # Adding the labels' part to the slopes makes a second array of their size, adding it to the
    # product none. But products of half precision are rounded, and here nearly cancel; and the
    # gradient of a table is larger than any chunk. Of many targets the rows are large too.
    is_whole = wanted[1] or cast.dtype != tf.float32 or bool(targets)
    of_hidden = tf.TensorArray("float32", count if wanted[0] else 0, element_shape=(None, width))
    of_table = tf.zeros(tf.shape(table) if wanted[1] else ())
    _, loss, correct, of_hidden, of_table = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (0, 0.0, 0.0, of_hidden, of_table),
        # Chunks that run side by side would all have their logits in memory.
        parallel_iterations=1,
    )
    of_hidden = tf.reshape(of_hidden.stack(), (-1, width)) if wanted[0] else None
    return loss, correct, of_hidden, of_table


def _chunk(hidden, labels, weights, ids, shares, table, soft_cap):
    """The two sums of one chunk, and the slopes of its unweighted losses as two tensors.

    The first is (size, V), the second (size, few): what the slopes of the targets have besides.
    """
    logits = tf.cast(tf.matmul(hidden, table, transpose_b=True), "float32")
    if soft_cap is not None:
        bent = tf.tanh(logits / soft_cap)
        logits = soft_cap * bent
    of_targets = tf.reduce_sum(shares * tf.gather(logits, ids, batch_dims=1), axis=-1)
    is_correct = tf.cast(tf.argmax(logits, axis=-1, output_type="int32") == labels, "float32")

    # TensorFlow works in place where nobody else will read an array: from here on this is the one
    # of its size. Its own kernels of cross-entropy make a second one or are several times slower.
    with tf.control_dependencies([of_targets, is_correct]):
        top = tf.reduce_max(logits, axis=-1, keepdims=True)
        exponentials = tf.exp(logits - top)
    total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
    losses = (tf.math.log(total) + top)[:, 0] - of_targets
    slopes, besides = exponentials / total, -shares
    if soft_cap is not None:
        bend = 1.0 - bent**2
        slopes, besides = slopes * bend, besides * tf.gather(bend, ids, batch_dims=1)
    sums = tf.reduce_sum(weights * losses), tf.reduce_sum(weights * is_correct)
    return sums, slopes, besides


def _times_table(slopes, table):
    """(size, D) float32: `slopes` (size, V) times the table."""
    # What keeps the slopes of a large vocabulary in the range of float16.
    scale = 256.0 if table.dtype == tf.float16 else 1.0
    if scale != 1.0:
        slopes = slopes * scale
    return tf.cast(tf.matmul(tf.cast(slopes, table.dtype), table), "float32") / scale
