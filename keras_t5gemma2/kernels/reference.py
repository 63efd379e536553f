"""The portable kernels, in pure `keras.ops`: the definition of what is right."""

import functools
import math

import keras
from keras import activations, ops

from keras_t5gemma2.kernels.scaled import Scaled, apart

# The score of an unseen token: finite, so that nothing is ever inf - inf.
UNSEEN = -1e30
# Below every real score and far above UNSEEN: a query that sees nothing gets zeros, not a mean.
LOWEST = -1e20
# Up to so many queries, as those of a step of decoding, have scores that are small beside the keys,
# and read shared or `Scaled` keys as they are. More of them are worth making others.
FEW_QUERIES = 8
_PARTS = 8  # of the product of few rows and a matrix


def attend(query, positions, parts, scale, drop=None):
    """See `kernels.attend`. Scores, softmax and sums are float32, rounded once at the end."""
    sums = weighted_sums([query] * len(parts), positions, parts, scale, drop=drop)
    return ops.cast(sum(sums), query.dtype)


def suits(query, parts):
    """Whether all scores at once are the quickest way: those of a step, or of short inputs.

    From 256 x 256 scores a head on, blocks are as fast on two cores and keep none of them.
    """
    length = query.shape[2]
    if length is not None and length <= FEW_QUERIES:
        return True
    if length is None or any(kv.keys.shape[2] is None for kv, _ in parts):
        return False
    return length * sum(kv.keys.shape[2] for kv, _ in parts) <= 256 * 256


def weighted_sums(queries, positions, parts, scale, drop=None):
    """Per part, the sum of its values weighted by one softmax over the tokens of all parts.

    Args:
        queries: a query (B, N, T, H) for each part, whose widths may differ.
        positions, parts, scale, drop: as `kernels.attend` has them.

    Returns:
        List of float32 (B, N, T, H) tensors.
    """
    scores = [
        _scores(ops.cast(query, "float32") * scale, positions, *part)
        for query, part in zip(queries, parts, strict=True)
    ]
    highest = [ops.max(part, axis=-1, keepdims=True) for part in scores]
    top = ops.stop_gradient(ops.maximum(functools.reduce(ops.maximum, highest), LOWEST))
    weights = [ops.exp(part - top) for part in scores]
    total = ops.maximum(sum(ops.sum(part, axis=-1, keepdims=True) for part in weights), 1e-30)
    if drop is not None:
        weights = [drop(part) for part in weights]
    return [_sum(part, kv.values) / total for part, (kv, _) in zip(weights, parts, strict=True)]


def _scores(query, positions, keys_values, window):
    """(B, N, T, S) float32 scores of one part, `UNSEEN` where its rule hides a token."""
    numbers, scales = apart(keys_values.keys)
    scores = _per_head(query, numbers, "xth,xsh->xts")
    if scales is not None:
        scores = scores * _for_each_query(scales, query)
    if keys_values.positions is None:
        return scores
    there = for_each_row(keys_values.positions, query)
    is_seen = seen(positions, there, window)
    return ops.where(ops.expand_dims(is_seen, axis=1), scores, UNSEEN)


def _sum(weights, values):
    """(B, N, T, H) of weights (B, N, T, S)."""
    numbers, scales = apart(values)
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
    result = _product_apart if _is_fused(matrices) else _product
    result = result(product, rows, matrices, width)
    if is_shared:
        shape = (shared, num_kv_heads, batch // shared, groups * length, width)
        result = ops.swapaxes(ops.reshape(result, shape), 1, 2)
    return ops.reshape(result, (-1, num_heads, length, width))


def _product(product, rows, matrices, _):
    return ops.einsum(product, rows, ops.cast(matrices, "float32"))


def _is_fused(matrices):
    """Whether a compiler would fuse with others the conversion of these numbers to floats."""
    if keras.config.backend() == "torch" or matrices.dtype != "int8":
        return False
    # Elsewhere a condition costs more than it saves: its outcome goes to the host.
    return _is_on_cpu()


def _product_apart(product, rows, matrices, width):
    """The same, in a condition that a compiler cannot decide: into this it does not look.

    XLA for CPUs converts what no step of a loop changes before the loop, where it is as large
    as if it had never been rounded; and it fuses the conversion with the write of a token into
    the buffer, so that it has to copy the buffer.
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


def write_slots(buffer, values, slots):
    """`buffer` (B, K, S, H) with `values` (B, K, T, H) in its slots, a scalar or (T,)."""
    # In the shape that `_per_head` reads.
    *batch, count, width = ops.shape(buffer)
    is_one = buffer.shape[0] == buffer.shape[1] == 1
    shape = (count, width) if is_one else (batch[0] * batch[1], count, width)
    values = ops.reshape(ops.cast(values, buffer.dtype), (*shape[:-2], -1, width))
    written = put(ops.reshape(buffer, shape), values, slots, axis=len(shape) - 2)
    return ops.reshape(written, (*batch, count, width))


def put(buffer, values, slots, axis):
    """`buffer` with the T entries of `values` along `axis` in its slots, a scalar or (T,)."""
    if len(slots.shape) == 0:
        start = [slots if i == axis else 0 for i in range(len(buffer.shape))]
        return ops.slice_update(buffer, start, values)
    # One by one, as they need not be in a row. There are few.
    for i, value in enumerate(ops.split(values, slots.shape[0], axis=axis)):
        buffer = put(buffer, value, slots[i], axis)
    return buffer


def rounded(x):
    """`Scaled` int8 of (B, K, S, H), in which the largest of a token and head is 127."""
    x = ops.cast(x, "float32")
    scales = ops.max(ops.abs(x), axis=-1, keepdims=True) / 127.0
    numbers = ops.round(x / ops.maximum(scales, 1e-30))  # all of a token may be zeros
    return Scaled(ops.cast(numbers, "int8"), scales)


def rms_norm(x, scale, epsilon, dtype):
    """x / rms(x) * (1 + scale), of a variable `scale`, in float32, rounded once to `dtype`."""
    x32 = ops.cast(x, "float32")
    inverse = ops.rsqrt(ops.mean(ops.square(x32), axis=-1, keepdims=True) + epsilon)
    return ops.cast(x32 * inverse * (1.0 + ops.cast(scale, "float32")), dtype)


def product(x, kernel):
    """(..., in) times a variable (in, out)."""
    if not _are_few_rows(x) or kernel.shape[0] % _PARTS:
        return ops.matmul(x, kernel)
    rows = ops.reshape(x, (-1, _PARTS, x.shape[-1] // _PARTS))
    parts = ops.reshape(kernel, (_PARTS, -1, kernel.shape[1]))
    sums = ops.sum(ops.einsum("rpi,pio->pro", rows, parts), axis=0)
    return ops.reshape(sums, (*x.shape[:-1], -1))


def logits(x, table):
    """Float32 (..., V) of (..., D) times a variable or tensor (V, D), transposed.

    The product is one of numbers of the table's dtype.
    """
    x = ops.cast(x, table.dtype)
    if not _are_few_rows(x) or table.shape[0] % _PARTS:
        return ops.cast(ops.matmul(x, ops.transpose(table)), "float32")
    rows = ops.reshape(x, (1, -1, x.shape[-1]))
    rows = ops.broadcast_to(rows, (_PARTS, *rows.shape[1:]))
    parts = ops.reshape(table, (_PARTS, -1, table.shape[1]))
    columns = ops.reshape(ops.einsum("pvd,prd->pvr", parts, rows), (table.shape[0], -1))
    return ops.reshape(ops.transpose(columns), (*x.shape[:-1], -1))


def _are_few_rows(x):
    """Whether a CPU would spend the product of `x` and a matrix waiting for memory.

    So it is for the few rows of a step of decoding: compilers put them on one core, or rearrange
    the whole matrix first. In parts that are products of their own, each with some rows of the
    matrix, all cores read, and nothing is rearranged. Parts would be rounded one by one: of
    float32 only.
    """
    are_few = None not in x.shape and 0 < math.prod(x.shape[:-1]) <= FEW_QUERIES
    if not are_few or keras.backend.standardize_dtype(x.dtype) != "float32":
        return False
    return keras.distribution.distribution() is None and _is_on_cpu()


def _is_on_cpu():
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def lay_out(variable, for_steps):
    """Has a matrix (in, out) lie in memory as steps of decoding want it, or training: it does."""
    return


def argmax(x):
    """The first of the places of the highest number along the last axis."""
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


def zero_after(x):
    """A float32 zero that is not known before `x` is.

    Buffers of zeros that wait for nothing XLA for CPUs makes at the start of a program, those of
    all layers at once, and keeps them.
    """
    first = ops.sum(ops.reshape(x, (-1,))[:1])  # a replica without rows has not even one
    return ops.minimum(ops.cast(first > 0, "float32"), 0.0)


def map_blocks(function, x, size, axis):
    """`x` with others in the place of its blocks along an axis.

    Args:
        function: from the number of a block and the block to one of the same shape and dtype,
            and to one more tensor.
        x: tensor of whole blocks.
        size: int, of a block along the axis.
        axis: int.

    Returns:
        A tensor like `x`, and what else the function gave, stacked along a new first axis.
    """
    shape = list(ops.shape(x))
    count, shape[axis] = shape[axis] // size, size

    def of_block(i):
        start = [0] * len(shape)
        start[axis] = i * size
        return function(i, ops.slice(x, start, shape))

    blocks, more = ops.map(of_block, ops.arange(count, dtype="int32"))
    return ops.reshape(ops.moveaxis(blocks, 0, axis), ops.shape(x)), more


def by_pieces(function, x, size):
    """`function` of tokens (B, T, D), each by itself, to such, of `size` tokens at a time."""
    length, width = x.shape[1:]
    if length is None or length <= size or length % size:
        return function(x)
    pieces = ops.swapaxes(ops.reshape(x, (-1, length // size, size, width)), 0, 1)
    y = ops.swapaxes(ops.map(function, pieces), 0, 1)
    return ops.reshape(y, (-1, length, y.shape[-1]))


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
