"""What decoding keeps between tokens, and where in it each token goes."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.kernels import KeyValues


class Cache(NamedTuple):
    """Everything one decoding step needs beside the token; every leaf has the batch on axis 0."""

    past: tuple  # per layer, `KeyValues` of the decoder's own tokens: a ring where it slides
    memory: tuple  # per layer, `KeyValues` of the encoder's tokens
    padding: Any  # (B,) int32, tokens of padding at the left of each row


def slot_counts(config, length):
    """Per layer of a `StackConfig`, the slots that sequences of `length` tokens need."""
    windows = [attention.window for attention in config.layers]
    return [length if window is None else min(window, length) for window in windows]


def empty(attention, batch_size, count, dtype):
    """`KeyValues` of `count` slots with no token in them, for one `AttentionConfig`."""
    shape = (batch_size, attention.num_kv_heads, count, attention.head_dim)
    positions = ops.full((batch_size, count), -1, dtype="int32")
    return KeyValues(ops.zeros(shape, dtype), ops.zeros(shape, dtype), positions)


def pack(tokens, count):
    """`KeyValues` of tokens 0, 1, ... as `count` slots, token t in slot t % count.

    Of more tokens than slots, the last ones stay: a ring of 4 slots holds tokens 4, 5, 2, 3 of
    tokens 0 to 5.
    """
    length = tokens.positions.shape[1]
    if length <= count:
        free = count - length
        wide = [(0, 0), (0, 0), (0, free), (0, 0)]
        return KeyValues(
            ops.pad(tokens.keys, wide),
            ops.pad(tokens.values, wide),
            ops.pad(tokens.positions, [(0, 0), (0, free)], constant_values=-1),
        )
    last = length - 1
    held = (last - (last - np.arange(count)) % count).astype("int32")
    return KeyValues(
        ops.take(tokens.keys, held, axis=2),
        ops.take(tokens.values, held, axis=2),
        ops.take(tokens.positions, held, axis=1),
    )
