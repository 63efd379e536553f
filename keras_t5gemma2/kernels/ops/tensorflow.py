"""What TensorFlow computes otherwise than the reference: what its compiler would make too wide."""

import tensorflow as tf
from keras import ops

from keras_t5gemma2.kernels.ops import reference, screened
from keras_t5gemma2.kernels.ops.reference import (  # noqa: F401  chosen from here by `dispatch`
    argmax,
    by_pieces,
    gated,
    gelu,
    lay_out,
    merge_heads,
    mixture,
    packed_blocks,
    packs_blocks,
    reads_codes,
    rms_norm,
    rotate,
    split_heads,
    state_of,
    times_blocks,
)
from keras_t5gemma2.kernels.ops.screened import screen_of  # noqa: F401  for `dispatch`
from keras_t5gemma2.kernels.runtime import tensorflow as runtime
from keras_t5gemma2.kernels.runtime.reference import is_on_cpu


def product(x, kernel):
    """See `ops.reference`; few rows are summed in float32."""
    kernel = tf.convert_to_tensor(ops.convert_to_tensor(kernel))
    if kernel.dtype == tf.bfloat16 and reads_codes(x):
        return product_of_codes(x, kernel)
    return reference.product(x, kernel)


def product_of_codes(x, codes):
    """See `ops.reference`."""
    wide = runtime.widened(codes, x)
    return tf.cast(reference.sliced_product(tf.cast(x, tf.float32), wide), x.dtype)


def take_rows(table, ids):
    """See `ops.reference`."""
    table = tf.convert_to_tensor(ops.convert_to_tensor(table))
    if table.dtype == tf.bfloat16 and is_on_cpu():
        return runtime.take_rows(table, ids)
    return ops.take(table, ids, axis=0)


def logits(x, table):
    """See `ops.reference`; bfloat16 is summed in float32 and not rounded for few rows."""
    table = tf.convert_to_tensor(ops.convert_to_tensor(table))
    if table.dtype == tf.bfloat16 and reads_codes(x):
        return times_codes(tf.cast(x, tf.bfloat16), table)
    return reference.logits(x, table)


def times_codes(x, codes):
    """See `ops.reference`; `codes` may be bfloat16 too."""
    rows = tf.reshape(tf.cast(x, tf.float32), (-1, x.shape[-1]))
    matrix = runtime.widened(codes, rows)
    sums = tf.stack([tf.linalg.matvec(matrix, row) for row in tf.unstack(rows)])
    return tf.reshape(sums, (*x.shape[:-1], codes.shape[0]))


def screened_logits(x, table, screen, most=1, counts=None):
    """See `ops.screened`."""
    functions = logits, times_codes, take_rows
    return screened.screened_logits(x, table, screen, most, counts, functions)
