"""Norms, products, rotations, activations in pure `keras.ops`: the definition of what is right."""

import math

import keras
from keras import activations, ops

from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES, is_one_cpu

_SLICES = 8  # of the product of few rows and a matrix


def rms_norm(x, scale, epsilon, dtype):
    """x / rms(x) * (1 + scale), of a variable `scale`, in float32, rounded once to `dtype`."""
    x32 = ops.cast(x, "float32")
    inverse = ops.rsqrt(ops.mean(ops.square(x32), axis=-1, keepdims=True) + epsilon)
    return ops.cast(x32 * inverse * (1.0 + ops.cast(scale, "float32")), dtype)


def product(x, kernel):
    """(..., in) times a variable (in, out)."""
    if not _are_few_rows(x) or kernel.shape[0] % _SLICES:
        return ops.matmul(x, kernel)
    return sliced_product(x, kernel)


def sliced_product(x, kernel):
    """`product` of few rows in float32."""
    count = math.gcd(_SLICES, kernel.shape[0])
    rows = ops.reshape(x, (-1, count, x.shape[-1] // count))
    slices = ops.reshape(kernel, (count, -1, kernel.shape[1]))
    sums = ops.sum(ops.einsum("rpi,pio->pro", rows, slices), axis=0)
    return ops.reshape(sums, (*x.shape[:-1], -1))


def product_of_codes(x, codes):
    """(..., out), as `x`, of the few rows (..., in) times int8 or bfloat16 (in, out)."""
    return ops.cast(ops.matmul(ops.cast(x, "float32"), ops.cast(codes, "float32")), x.dtype)


def take_rows(table, ids):
    """The rows of a variable (V, D) that ids (...) name: (..., D)."""
    return ops.take(table, ids, axis=0)


def logits(x, table):
    """Float32 (..., V) of (..., D) times a variable or tensor (V, D), transposed.

    The product is one of numbers of the table's dtype.
    """
    x = ops.cast(x, table.dtype)
    if not _are_few_rows(x) or table.shape[0] % _SLICES:
        return ops.cast(ops.matmul(x, ops.transpose(table)), "float32")
    rows = ops.reshape(x, (1, -1, x.shape[-1]))
    rows = ops.broadcast_to(rows, (_SLICES, *rows.shape[1:]))
    slices = ops.reshape(table, (_SLICES, -1, table.shape[1]))
    columns = ops.reshape(ops.einsum("pvd,prd->pvr", slices, rows), (table.shape[0], -1))
    return ops.reshape(ops.transpose(columns), (*x.shape[:-1], -1))


def times_codes(x, codes):
    """(..., V), in float32 or as `x`, of the few rows (..., D) times int8 (V, D), transposed."""
    return ops.matmul(ops.cast(x, "float32"), ops.transpose(ops.cast(codes, "float32")))


def reads_codes(x):
    """Whether `times_codes` is for `x` (..., D): few rows, such as those of a step, on a CPU."""
    if None in x.shape or not 0 < math.prod(x.shape[:-1]) <= FEW_QUERIES:
        return False
    return is_one_cpu()


def packs_blocks(x):
    """Whether `times_blocks` is for `x` (..., in): few rows on a CPU whose product it is."""
    return False


def state_of(tensors):
    """What is another after a change of one of the tensors, while these are kept; maybe `None`.

    Here no tensor changes; `None` says that nothing tells of changes.
    """
    return tuple(map(id, tensors))


def packed_blocks(pieces, scale, zero, block):
    """What `times_blocks` takes, of pieces (..., in) of int8 (out, in) from -8 to 7.

    `scale` and `zero` (in / block, out) make numbers of them: (code - zero) * scale.
    """
    codes = ops.cast(ops.transpose(ops.concatenate(list(pieces))), scale.dtype)
    scale, zero = (ops.repeat(x, block, axis=0) for x in (scale, zero))
    return (codes - zero) * scale


def times_blocks(x, packed):
    """(..., out), as `x`, of the few rows (..., in) times what `packed_blocks` gave."""
    return ops.cast(ops.matmul(ops.cast(x, packed.dtype), packed), x.dtype)


def _are_few_rows(x):
    """Whether a CPU would spend the product of `x` and a matrix waiting for memory.

    It does for the few rows of a decoding step: compilers put them on one core, or rearrange the
    whole matrix first. Split into slices, each a product with some rows of the matrix, all cores
    read and nothing is rearranged. Each slice is rounded, so this is for float32 only.
    """
    return reads_codes(x) and keras.backend.standardize_dtype(x.dtype) == "float32"


def lay_out(variable, for_steps):
    """Does nothing: the compiler chooses the memory order of a matrix. See `ops.torch`."""
    return


def argmax(x):
    """Index of the highest number along the last axis; of equal ones, the first."""
    return ops.argmax(x, axis=-1)


def split_heads(x, width):
    """(B, T, heads * H) to (B, heads, T, H), of heads of `width`."""
    x = ops.reshape(x, (-1, ops.shape(x)[1], x.shape[-1] // width, width))
    return ops.swapaxes(x, 1, 2)


def merge_heads(x):
    """(B, heads, T, H) to (B, T, heads * H)."""
    x = ops.swapaxes(x, 1, 2)
    return ops.reshape(x, (-1, ops.shape(x)[1], x.shape[2] * x.shape[3]))


def rotate(x, cos, sin):
    """Pairs (i, i + H/2) of `x` (B, heads, T, H) turned, in float32, rounded once.

    `sin` (B, 1, T, H) has the sign that it has in the formula: less in the first half.
    """
    x32 = ops.cast(x, "float32")
    return ops.cast(x32 * cos + ops.roll(x32, x.shape[-1] // 2, axis=-1) * sin, x.dtype)


def gelu(x):
    """The tanh form of gelu, computed in float32 and rounded once."""
    return ops.cast(activations.gelu(ops.cast(x, "float32"), approximate=True), x.dtype)


def gated(gate, up):
    """gelu(gate) * up, and a tuple, of float16 with what each token was divided by: (..., 1).

    float16 may be too short for the product. So it is made in float32, and a token whose largest
    number is above 1 is divided by that. The divisor gets no gradient.
    """
    if keras.backend.standardize_dtype(gate.dtype) != "float16":
        return gelu(gate) * up, ()
    mixed = gelu(ops.cast(gate, "float32")) * ops.cast(up, "float32")
    largest = ops.max(ops.abs(ops.stop_gradient(mixed)), axis=-1, keepdims=True)
    size = ops.maximum(largest, 1.0)
    return ops.cast(mixed / size, "float16"), (size,)


def mixture(x, shares, functions, training):
    """Float32 (B, T, D), the sum of what functions make of `x` (B, T, D), each times its share.

    Outside of training, a function that no token has a share of does not run. One that some have
    runs for all tokens.

    Args:
        x: (B, T, D) tensor.
        shares: float32 (B, T, E) tensor.
        functions: list of E functions of tokens (B, T, D), each by itself, to such.
        training: bool.
    """
    y = 0.0
    for i, function in enumerate(functions):
        share = shares[..., i : i + 1]

        def part(function=function, share=share):
            return share * ops.cast(function(x), "float32")

        if training:  # where all are taken, and some keep the state of a seed
            y = y + part()
        else:
            y = y + ops.cond(ops.any(share > 0), part, lambda: ops.zeros_like(x, dtype="float32"))
    return y


def by_pieces(function, x, size):
    """`function` of tokens (B, T, D), each by itself, to such, of `size` tokens at a time."""
    length, width = x.shape[1:]
    if length is None or length <= size or length % size:
        return function(x)
    pieces = ops.swapaxes(ops.reshape(x, (-1, length // size, size, width)), 0, 1)
    y = ops.swapaxes(ops.map(function, pieces), 0, 1)
    return ops.reshape(y, (-1, length, y.shape[-1]))
