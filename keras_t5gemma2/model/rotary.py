"""Positions of tokens, and the rotary embedding that they give."""

import numpy as np
from keras import ops

from keras_t5gemma2 import kernels


class Positions:
    """The positions of the tokens of a call, and the rotations that these give.

    Args:
        positions: (B, T) int32 tensor; -1 hides a token.
        configs: the `AttentionConfig` of each layer of the call.
        shards: `TokenShards` where the rows are shards of one, which see each other; or `None`.
    """

    def __init__(self, positions, configs, shards=None):
        self.positions, self.shards = positions, shards
        self.routed = []  # what layers with experts say in training
        # The layers of a stack share one or two rotations: each is computed once.
        self._rotations = {
            key: _rotation(positions, *key) for key in {_rotation_key(c) for c in configs}
        }

    def rotate(self, x, config):
        """Rotary embedding of (B, heads, T, H): pair (i, i + H/2) turned by its angle.

        The rotation is float32, rounded once (reference: `T5Gemma2RotaryEmbedding`).
        """
        return kernels.rotate(x, *self._rotations[_rotation_key(config)])


def _rotation_key(config):
    return config.rope_theta, config.rope_factor, config.head_dim


def _rotation(positions, theta, factor, width):
    """Float32 (B, 1, T, H) cosines, and sines of the sign that they have in each half."""
    half = width // 2
    frequencies = theta ** (-np.arange(half) / half) / factor
    frequencies = ops.convert_to_tensor(frequencies, dtype="float32")
    angles = ops.cast(positions, "float32")[:, None, :, None] * frequencies
    cos, sin = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([cos, cos], axis=-1), ops.concatenate([-sin, sin], axis=-1)
