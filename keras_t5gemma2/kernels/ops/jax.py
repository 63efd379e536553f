"""What JAX computes otherwise than the reference: with less memory, or without rounding."""

import jax
import jax.numpy as jnp
from keras import ops

from keras_t5gemma2.kernels.ops import reference, screened
from keras_t5gemma2.kernels.ops.reference import (  # noqa: F401  chosen from here by `dispatch`
    argmax,
    gated,
    gelu,
    lay_out,
    merge_heads,
    mixture,
    packed_blocks,
    packs_blocks,
    reads_codes,
    rotate,
    split_heads,
    state_of,
    times_blocks,
)
from keras_t5gemma2.kernels.ops.screened import screen_of  # noqa: F401  for `dispatch`
from keras_t5gemma2.kernels.runtime import jax as runtime
from keras_t5gemma2.kernels.runtime.jax import by_platform, map_blocks, rematerialized
from keras_t5gemma2.kernels.runtime.reference import is_on_cpu


def by_pieces(function, x, size):
    """See `ops.reference`."""
    length = x.shape[1]
    if length is None or length <= size or length % size:
        return function(x)
    dtype = x.dtype  # the output may have another
    output = jax.eval_shape(function, jax.ShapeDtypeStruct((x.shape[0], size, x.shape[2]), dtype))
    x = x.astype(output.dtype)
    return map_blocks(lambda _, piece: (function(piece.astype(dtype)), ()), x, size, axis=1)[0]


def product(x, kernel):
    """See `ops.reference`; few rows are summed in float32."""
    kernel = ops.convert_to_tensor(kernel)
    if kernel.dtype == "float16" or not reads_codes(x):
        return ops.matmul(x, kernel)
    of_few = _product_of_codes if kernel.dtype == "bfloat16" else reference.product
    return by_platform({"cpu": of_few}, ops.matmul, x, kernel)


def product_of_codes(x, codes):
    """See `ops.reference`."""
    narrow = lambda x, codes: ops.matmul(x, ops.cast(codes, x.dtype))  # noqa: E731
    return by_platform({"cpu": _product_of_codes}, narrow, x, codes)


def _product_of_codes(x, codes):
    return reference.sliced_product(x.astype("float32"), runtime.widened(codes, x)).astype(x.dtype)


def take_rows(table, ids):
    """See `ops.reference`."""
    table, take = ops.convert_to_tensor(table), lambda table, ids: ops.take(table, ids, axis=0)
    if table.dtype == "bfloat16" and is_on_cpu():
        return by_platform({"cpu": runtime.take_rows}, take, table, ids)
    return take(table, ids)


def logits(x, table):
    """See `ops.reference`; half precision is summed in float32 and not rounded."""
    table = ops.convert_to_tensor(table)
    is_whole = table.dtype == "float32"
    x = x if is_whole else x.astype(table.dtype)
    if table.dtype == "float16" or not reads_codes(x):
        return _logits(x, table)
    of_few = reference.logits if is_whole else _times_codes
    return by_platform({"cpu": of_few}, _logits, x, table)


def _logits(x, table):
    return jnp.matmul(x.astype(table.dtype), table.T, preferred_element_type="float32")


def times_codes(x, codes):
    """See `ops.reference`; `codes` may be bfloat16 too."""
    narrow = lambda x, codes: _logits(x, codes.astype(x.dtype))  # noqa: E731
    return by_platform({"cpu": _times_codes}, narrow, x, codes)


def _times_codes(x, codes):
    codes, x = jax.lax.optimization_barrier((codes, x.astype("float32")))
    matrix, rows = codes.astype("float32"), x.reshape(-1, x.shape[-1])
    # The compiler reads codes inside the product of one row, and inside the sum of several.
    sums = rows @ matrix.T if len(rows) == 1 else jnp.sum(matrix * rows[:, None], axis=-1)
    return sums.reshape(*x.shape[:-1], -1)


def screened_logits(x, table, screen, most=1, counts=None):
    """See `ops.screened`."""
    functions = logits, times_codes, take_rows
    return screened.screened_logits(x, table, screen, most, counts, functions)


def rms_norm(x, scale, epsilon, dtype):
    """See `ops.reference`; for its gradient nothing is kept but `x`."""

    def norm(x, scale):
        return reference.rms_norm(x, scale, epsilon, dtype), ()

    return rematerialized(norm)(x, ops.convert_to_tensor(scale))[0]
