"""Positions of tokens, and the rotary embedding that they give."""

import numpy as np
from keras import ops

from keras_t5gemma2 import kernels


class Places:
    """Where the tokens of a call stand: their positions, and the turns that these give.

    Args:
        positions: (B, T) int32 tensor; -1 hides a token.
        configs: the `AttentionConfig` of each layer of the call.
        shards: `TokenShards` where the rows are parts of one, which all see each other; or `None`.
    """

    def __init__(self, positions, configs, shards=None):
        self.positions, self.shards = positions, shards
        # The layers of a stack share one or two kinds of rotation: each is computed once.
        self._turns = {kind: _turn(positions, *kind) for kind in {_kind(c) for c in configs}}

    def rotate(self, x, config):
        """Rotary embedding of (B, heads, T, H): pair (i, i + H/2) turned by its angle.

        The turn is float32, rounded once (reference: `T5Gemma2RotaryEmbedding`).
        """
        return kernels.rotate(x, *self._turns[_kind(config)])


def _kind(config):
    return config.rope_theta, config.rope_factor, config.head_dim


def _turn(positions, theta, factor, width):
    """Float32 (B, 1, T, H) cosines, and sines of the sign that they have in each half."""
    half = width // 2
    frequencies = theta ** (-np.arange(half) / half) / factor
    frequencies = ops.convert_to_tensor(frequencies, dtype="float32")
    angles = ops.cast(positions, "float32")[:, None, :, None] * frequencies
    cos, sin = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([cos, cos], axis=-1), ops.concatenate([-sin, sin], axis=-1)
