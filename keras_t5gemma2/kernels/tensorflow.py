"""What only TensorFlow can do: a loss that makes its gradient on the way."""

import tensorflow as tf

ATTENTION = {}  # see `kernels.torch`


def differentiable(forward, backward):
    """See `kernels.jax.differentiable`."""

    def function(fixed, *tensors):
        @tf.custom_gradient
        def call(*tensors):
            output, extra = forward(fixed, *tensors)
            return output, lambda upstream: backward(fixed, tensors, output, extra, upstream)

        return call(*tensors)

    return function


def sums_over_chunks(hidden, table, labels, weights, soft_cap, size, wanted):
    """See `kernels.linear_cross_entropy`: the loss and the correct tokens, summed.

    Args:
        hidden: (chunks * size, D) tensor.
        table: (V, D) tensor.
        labels, weights: (chunks * size,) tensors.
        soft_cap: float or `None`.
        size: int or scalar tensor. Tokens whose logits are formed at once.
        wanted: two bools, whether to make the gradients of `hidden` and of `table`.
    """
    if not any(wanted):
        return _loop(hidden, table, labels, weights, soft_cap, size, wanted)[:2]

    @tf.custom_gradient
    def sums(hidden, table):
        loss, correct, *gradients = _loop(hidden, table, labels, weights, soft_cap, size, wanted)

        def backward(upstream, _):
            return [
                tf.cast(gradient * upstream, like.dtype) if is_wanted else None
                for gradient, like, is_wanted in zip(
                    gradients, (hidden, table), wanted, strict=True
                )
            ]

        return (loss, correct), backward

    return sums(hidden, table)


def _loop(hidden, table, labels, weights, soft_cap, size, wanted):
    """Loss and correct tokens summed, and the float32 gradients that are wanted."""
    count = tf.shape(hidden)[0] // size
    width, cast = hidden.shape[1], tf.cast(table, hidden.dtype)
    hidden = tf.reshape(hidden, (count, size, width))
    labels, weights = (tf.reshape(x, (count, size)) for x in (labels, weights))

    def body(i, loss, correct, of_hidden, of_table):
        fresh, slopes = _chunk(hidden[i], labels[i], weights[i], cast, soft_cap)
        by_token = weights[i][:, None]
        if wanted[0]:
            of_hidden = of_hidden.write(i, _times_table(slopes, cast) * by_token)
        if wanted[1]:
            weighted = tf.cast(hidden[i], "float32") * by_token
            of_table += tf.matmul(slopes, weighted, transpose_a=True)
        return i + 1, loss + fresh[0], correct + fresh[1], of_hidden, of_table

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


def _chunk(hidden, labels, weights, table, soft_cap):
    """The two sums of one chunk, and the slopes (size, V) of its unweighted losses."""
    logits = tf.cast(tf.matmul(hidden, table, transpose_b=True), "float32")
    if soft_cap is not None:
        bent = tf.tanh(logits / soft_cap)
        logits = soft_cap * bent
    is_correct = tf.cast(tf.argmax(logits, axis=-1, output_type="int32") == labels, "float32")
    # One kernel makes both, without further arrays of this size.
    losses, slopes = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=labels)
    if soft_cap is not None:
        slopes *= 1.0 - bent**2
    return (tf.reduce_sum(weights * losses), tf.reduce_sum(weights * is_correct)), slopes


def _times_table(slopes, table):
    """(size, D) float32: `slopes` (size, V) times the table."""
    # What keeps the slopes of a large vocabulary in the range of float16.
    scale = 256.0 if table.dtype == tf.float16 else 1.0
    product = tf.matmul(tf.cast(slopes * scale, table.dtype), table)
    return tf.cast(product, "float32") / scale
