"""What decoding keeps between tokens, and where in it each token goes."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Scaled, rounded
from keras_t5gemma2.kernels.attention.slots import put


class Cache(NamedTuple):
    """What a decoding step needs of the tokens before it."""

    # Per layer, keys and values (B, K, S, H), each a tensor or `Scaled`: of a ring of slots where
    # it slides.
    past: tuple
    positions: dict  # from the number of slots to (B, S) int32, as `KeyValues` has them
    padding: Any  # (B,) int32, tokens of padding at the left of each row


def slot_counts(config, length, ahead=0):
    """Per layer of a `StackConfig`, the slots that sequences of `length` tokens need.

    Where tokens are read of which up to `ahead` may prove wrong, as many slots more: they go
    where nothing stands that is still needed.
    """
    windows = [attention.window for attention in config.layers]
    return [ahead + (length if window is None else min(window, length)) for window in windows]


def empty(attention, batch_size, count, dtype):
    """Keys and values of `count` slots with nothing in them, for one `AttentionConfig`.

    Of the dtype int8 they are `Scaled`.
    """
    shape = (batch_size, attention.num_kv_heads, count, attention.head_dim)

    def zeros():
        x = ops.zeros(shape, dtype)
        return Scaled(x, ops.zeros((*shape[:-1], 1), "float32")) if dtype == "int8" else x

    return zeros(), zeros()


def memory_in_int8(memory):
    """A `Memory` with what is as long as the input in int8."""
    if memory.shared:
        return memory._replace(shared=tuple(map(rounded, memory.shared)))
    return memory._replace(layers=tuple(tuple(map(rounded, pair)) for pair in memory.layers))


def in_int8(tokens):
    """`KeyValues` in int8."""
    return tokens._replace(keys=rounded(tokens.keys), values=rounded(tokens.values))


def pack(tokens, count):
    """`KeyValues` of tokens 0, 1, ... as `count` slots, token t in slot t % count.

    Of more tokens than slots, the last ones stay: a ring of 4 slots holds tokens 4, 5, 2, 3 of
    tokens 0 to 5.
    """
    pair = tokens.keys, tokens.values
    keys, values = tree.map_structure(lambda x: _pack(x, count, axis=2), pair)
    return KeyValues(keys, values, _pack(tokens.positions, count, axis=1, free=-1))


def _pack(x, count, axis, free=0):
    length = x.shape[axis]
    if length <= count:
        width = [(0, 0)] * len(x.shape)
        width[axis] = (0, count - length)
        return ops.pad(x, width, constant_values=free)
    last = length - 1
    held = (last - (last - np.arange(count)) % count).astype("int32")
    return ops.take(x, held, axis=axis)


def written(cache, index, positions):
    """Positions with those of the tokens in slots `index`, ..., (B, T), and per layer their slots.

    The slots are an int32 scalar of one token, and else (T,): a ring may end among them.
    """
    length = positions.shape[1]
    index = index if length == 1 else index + ops.arange(length, dtype="int32")
    slots = {count: index % count for count in cache.positions}
    positions = {
        count: put(there, positions, slots[count], axis=1)
        for count, there in cache.positions.items()
    }
    return positions, [slots[keys.shape[2]] for keys, _ in cache.past]


def folded(cache):
    """The cache as a loop carries it: batch and key heads are one axis, and none if one of both.

    In this shape compilers write a token in place; in any other they copy whole buffers. Where
    nothing is compiled, tokens are written in place anyway, and the cache is left as it is.
    """
    if not kernels.IS_COMPILED:
        return cache

    def fold(x):
        batch, heads, count, width = x.shape
        shape = (count, width) if batch * heads == 1 else (batch * heads, count, width)
        return ops.reshape(x, shape)

    return cache._replace(past=tree.map_structure(fold, cache.past))


def unfolded(cache):
    """The inverse of `folded`."""
    if not kernels.IS_COMPILED:
        return cache
    batch = cache.padding.shape[0]

    def unfold(x):
        heads = 1 if len(x.shape) == 2 else x.shape[0] // batch
        return ops.reshape(x, (batch, heads, *x.shape[-2:]))

    return cache._replace(past=tree.map_structure(unfold, cache.past))
