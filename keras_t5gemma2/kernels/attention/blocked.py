"""Attention in memory linear in the length, in pure `keras.ops`: blocks and an online softmax.

Each block of queries goes over the blocks of keys that any of its queries may see, and keeps the
highest score and the sums so far. Which blocks these are follows from the positions alone: a
window, padding and the causal rule all skip the blocks that they hide. The backward pass makes
the scores again, from the logarithm of each query's sum. (Milakov and Gimelshein 2018, online
softmax; Dao et al. 2022, FlashAttention, algorithms 1 and 4.)
"""

from typing import Any, NamedTuple

from keras import ops

from keras_t5gemma2.kernels.attention.reference import LOWEST, UNSEEN, for_each_row, seen
from keras_t5gemma2.kernels.runtime.dispatch import differentiable, map_blocks
from keras_t5gemma2.kernels.runtime.reference import zero_after

# Tokens of a block of queries, and of keys: of those inside a window, and of all others.
QUERIES, KEYS_IN_WINDOW, KEYS = 256, 256, 1024


class _Segment(NamedTuple):
    """One segment of the keys, padded to whole blocks."""

    keys: Any  # (B, K, blocks * size, H)
    values: Any
    positions: Any  # (B, blocks * size)
    length: Any  # keys without padding
    size: Any  # keys of a block
    first: Any  # (query blocks,) the first block of keys that each block of queries sees
    end: Any  # (query blocks,) and the one behind the last
    window: Any


def attend(query, positions, segments, scale, cap=None):
    """See `kernels.attend`; no dropout of probabilities, and no gradients where rows share keys."""
    if positions is None:
        positions = ops.zeros((ops.shape(query)[0], ops.shape(query)[2]), "int32")
    windows = [window for _, window in segments]

    def forward(fixed, *tensors):
        return _Blocks(fixed, tensors, windows, scale, cap).forward(map_blocks)

    def backward(fixed, tensors, *results_and_upstream):
        return _Blocks(fixed, tensors, windows, scale, cap).backward(*results_and_upstream)

    fixed = (positions, *(for_each_row(_positions(kv), query) for kv, _ in segments))
    tensors = [tensor for kv, _ in segments for tensor in (kv.keys, kv.values)]
    return differentiable(forward, backward)(fixed, query, *tensors)


def _positions(keys_values):
    if keys_values.positions is not None:
        return keys_values.positions
    return ops.zeros((ops.shape(keys_values.keys)[0], ops.shape(keys_values.keys)[2]), "int32")


class _Blocks:
    """Queries and keys of one call, cut into blocks.

    The G query heads of a key head are rows of one product: tiles are (B, K, G * size, ...).
    """

    def __init__(self, fixed, tensors, windows, scale, cap):
        (positions, *key_positions), (query, *keys_and_values) = fixed, tensors
        self.scale, self.cap, self.dtype = scale, cap, query.dtype
        self.batch, self.heads, self.length, self.width = ops.shape(query)
        self.kv_heads = keys_and_values[0].shape[1]
        self.size = _smaller(QUERIES, self.length)
        self.query = self._queries(query)
        self.positions = _pad(positions, 1, self.size, -1)
        self.segments = [
            self._segment(keys, values, positions, window)
            for keys, values, positions, window in zip(
                keys_and_values[::2], keys_and_values[1::2], key_positions, windows, strict=True
            )
        ]

    def _queries(self, x):
        """(B, N, T, H) to (B, K, G, blocks * size, H)."""
        shape = (self.batch, self.kv_heads, self.heads // self.kv_heads, self.length, x.shape[-1])
        return _pad(ops.reshape(x, shape), 3, self.size)

    def _segment(self, keys, values, positions, window):
        is_local = window.left is not None and window.right is not None
        length = ops.shape(keys)[2]
        size = _smaller(KEYS_IN_WINDOW if is_local else KEYS, length)
        positions = _pad(positions, 1, size, -1)
        first, end = ranges(self.positions, self.size, positions, size, window)
        keys, values = (_pad(x, 2, size) for x in (keys, values))
        return _Segment(keys, values, positions, length, size, first, end, window)

    # Forward ----------------------------------------------------------------------------------

    def forward(self, map_blocks):
        """The output (B, N, T, H), and float32 (query blocks, B, K, G * size, 1) log of sums."""
        output, log_sums = map_blocks(self._forward_of_block, self.query, self.size, axis=3)
        return self._rows(output), log_sums

    def _forward_of_block(self, i, query):
        query, positions = self._rows_of(query) * self.scale, self._tile_of_positions(i)
        shape = (self.batch, self.kv_heads, ops.shape(query)[2])
        state = (
            ops.full((*shape, 1), LOWEST, "float32"),
            ops.zeros((*shape, 1), "float32"),
            ops.zeros((*shape, self.width), "float32"),
        )
        for segment in self.segments:

            def body(j, state, segment=segment):
                top, total, summed = state
                keys, values, is_seen = self._keys(segment, j, positions)
                scores = self._scores(query, keys)
                scores = ops.where(is_seen, scores, UNSEEN)
                higher = ops.maximum(top, ops.max(scores, axis=-1, keepdims=True))
                weights, shrunk = ops.exp(scores - higher), ops.exp(top - higher)
                total = total * shrunk + ops.sum(weights, axis=-1, keepdims=True)
                return higher, total, summed * shrunk + ops.matmul(weights, values)

            state = ops.fori_loop(segment.first[i], segment.end[i], body, state)
        top, total, summed = state
        total = ops.maximum(total, 1e-30)
        return self._block_of(summed / total), top + ops.log(total)

    # Backward ---------------------------------------------------------------------------------

    def backward(self, output, log_sums, upstream):
        """Gradients of the query and of each segment's keys and values, each in its own dtype."""
        output, upstream = self._queries(output), self._queries(upstream)

        def body(i, carry):
            # The gradient of each block takes the place of the block.
            query, of_segments = carry
            tile = self._tile(query, i)
            slope, of_segments = self._backward_of_block(
                i, tile, output, log_sums, upstream, of_segments
            )
            return ops.slice_update(query, (0, 0, 0, i * self.size, 0), slope), of_segments

        zero = zero_after(upstream)
        of_segments = [
            tuple(ops.broadcast_to(zero, ops.shape(x)) for x in (segment.keys, segment.values))
            for segment in self.segments
        ]
        of_query, of_segments = ops.fori_loop(0, self._count(), body, (self.query, of_segments))
        gradients = [self._rows(of_query)]
        for segment, (of_keys, of_values) in zip(self.segments, of_segments, strict=True):
            for gradient in (of_keys, of_values):
                gradients.append(ops.cast(gradient[:, :, : segment.length], segment.keys.dtype))
        return gradients

    def _backward_of_block(self, i, query, output, log_sums, upstream, of_segments):
        query, positions = query * self.scale, self._tile_of_positions(i)
        upstream = self._tile(upstream, i)
        # What each row's slopes sum to: the same for all its keys, of every segment.
        mean = ops.sum(self._tile(output, i) * upstream, axis=-1, keepdims=True)
        log_sums = log_sums[i]
        of_query, updated = ops.zeros_like(query), []
        for segment, slopes in zip(self.segments, of_segments, strict=True):

            def body(j, state, segment=segment):
                of_query, of_keys, of_values = state
                keys, values, is_seen = self._keys(segment, j, positions)
                scores = self._scores(query, keys)
                weights = ops.where(is_seen, ops.exp(scores - log_sums), 0.0)
                slopes = weights * (ops.matmul(upstream, ops.swapaxes(values, 2, 3)) - mean)
                if self.cap is not None:  # the derivative of the capped score
                    slopes = slopes * (1.0 - ops.square(scores / self.cap))
                of_query = of_query + ops.matmul(slopes, keys)
                of_keys = _add(of_keys, ops.matmul(ops.swapaxes(slopes, 2, 3), query), j, segment)
                of_values = _add(
                    of_values, ops.matmul(ops.swapaxes(weights, 2, 3), upstream), j, segment
                )
                return of_query, of_keys, of_values

            state = (of_query, *slopes)
            of_query, *slopes = ops.fori_loop(segment.first[i], segment.end[i], body, state)
            updated.append(tuple(slopes))
        return self._block_of(of_query * self.scale), updated

    # Blocks -----------------------------------------------------------------------------------

    def _count(self):
        return ops.shape(self.positions)[1] // self.size

    def _tile(self, x, i):
        """Block `i` of (B, K, G, T, H) as float32 (B, K, G * size, H)."""
        shape = (*ops.shape(x)[:3], self.size, x.shape[-1])
        return self._rows_of(ops.slice(x, (0, 0, 0, i * self.size, 0), shape))

    def _rows_of(self, block):
        """(B, K, G, size, H) as float32 (B, K, G * size, H)."""
        shape = (self.batch, self.kv_heads, -1, block.shape[-1])
        return ops.reshape(ops.cast(block, "float32"), shape)

    def _block_of(self, rows):
        """Float32 (B, K, G * size, H) as (B, K, G, size, H) in the dtype of the query."""
        shape = (self.batch, self.kv_heads, -1, self.size, self.width)
        return ops.cast(ops.reshape(rows, shape), self.dtype)

    def _scores(self, query, keys):
        scores = ops.matmul(query, ops.swapaxes(keys, 2, 3))
        return scores if self.cap is None else self.cap * ops.tanh(scores / self.cap)

    def _tile_of_positions(self, i):
        """(B, G * size) int32."""
        tile = ops.slice(self.positions, (0, i * self.size), (self.batch, self.size))
        return ops.tile(tile, (1, self.heads // self.kv_heads))

    def _keys(self, segment, j, positions):
        """Block `j`: keys and values, float32 (B, K, size, H), and who sees them."""
        shape = (ops.shape(segment.keys)[0], self.kv_heads, segment.size, self.width)
        keys, values = (
            for_each_row(
                ops.cast(ops.slice(x, (0, 0, j * segment.size, 0), shape), "float32"), self.query
            )
            for x in (segment.keys, segment.values)
        )
        there = ops.slice(segment.positions, (0, j * segment.size), (self.batch, segment.size))
        return keys, values, ops.expand_dims(seen(positions, there, segment.window), 1)

    def _rows(self, x):
        """(B, K, G, T, H), padded, to (B, N, T, H)."""
        return ops.reshape(x, (self.batch, self.heads, -1, self.width))[:, :, : self.length]


def ranges(positions, size, key_positions, key_size, window):
    """Per block of queries, the first block of keys that a row of it may see, and the end.

    Padding among the queries sees nothing worth a block. The blocks between are not asked one by
    one: what lies there is seen, or belongs to the padding of one row of a batch.
    """
    query = ops.reshape(positions, (ops.shape(positions)[0], -1, 1, size))
    keys = ops.reshape(key_positions, (ops.shape(key_positions)[0], 1, -1, key_size))
    far = 2**30
    first_query = ops.min(ops.where(query >= 0, query, far), axis=-1)
    first_key = ops.min(ops.where(keys >= 0, keys, far), axis=-1)
    last_query, last_key = ops.max(query, axis=-1), ops.max(keys, axis=-1)

    needed = ops.logical_and(last_query >= 0, last_key >= 0)
    if window.left is not None:
        needed = ops.logical_and(needed, first_query - last_key <= window.left)
    if window.right is not None:
        needed = ops.logical_and(needed, first_key - last_query <= window.right)
    needed = ops.cast(ops.any(needed, axis=0), "int32")  # (query blocks, key blocks)

    count = ops.shape(needed)[1]
    number = ops.arange(count, dtype="int32")
    end = ops.max(needed * (number + 1), axis=1)
    return ops.minimum(ops.min(ops.where(needed > 0, number, count), axis=1), end), end


def _add(buffer, block, j, segment):
    """`buffer` (B, K, S, H) with `block` added to its block `j`."""
    start = (0, 0, j * segment.size, 0)
    return ops.slice_update(buffer, start, ops.slice(buffer, start, ops.shape(block)) + block)


def _pad(x, axis, size, value=0):
    """`x`, on one axis padded at its end to a multiple of `size`."""
    width = [(0, 0)] * len(x.shape)
    width[axis] = (0, -ops.shape(x)[axis] % size)
    return ops.pad(x, width, constant_values=value)


def _smaller(size, length):
    """The smaller one: an int, or on TensorFlow a tensor where the length is not known."""
    return min(size, length) if isinstance(length, int) else ops.minimum(size, length)
