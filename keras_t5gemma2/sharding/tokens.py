"""The tokens of one row, dealt out to devices."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_t5gemma2.sharding.layouts import axis_sizes

# What a map of layouts calls the encoder's (rows, tokens, width), where there is a single row.
SEQUENCE = "encoder/sequence"


def token_shards(shape):
    """`TokenShards` of the encoder's tensor of (rows, tokens, width), or `None`.

    Tokens are spread where there is one row and the map of layouts says so.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or shape[0] != 1 or shape[1] is None:
        return None
    layout = distribution.get_tensor_layout(SEQUENCE)
    if layout is None or axis_sizes(layout.device_mesh)[layout.axes[1]] == 1:
        return None
    return TokenShards(layout.device_mesh, layout.axes[1], shape[1])


@dataclasses.dataclass(frozen=True)
class TokenShards:
    """How the tokens of a single row are spread over the devices of an axis.

    The part of each device is a row: what is computed token by token needs to know nothing of it.

    Args:
        device_mesh: `keras.distribution.DeviceMesh`.
        axis: string, the name of its axis.
        length: int. Tokens of the whole row.
    """

    device_mesh: Any
    axis: str
    length: int

    @property
    def count(self):
        return axis_sizes(self.device_mesh)[self.axis]

    def split(self, x, filler=0):
        """(1, S, ...) to (parts, tokens of a part, ...), filled up at the end of the last part."""
        width = [(0, 0)] * len(x.shape)
        width[1] = (0, -self.length % self.count)
        x = ops.pad(x, width, constant_values=filler) if any(width[1]) else x
        x = ops.reshape(x, (self.count, x.shape[1] // self.count, *x.shape[2:]))
        return self._laid_out(x, 0)

    def join(self, x):
        """The inverse of `split`, spread as it was."""
        x = ops.reshape(x, (1, -1, *x.shape[2:]))
        return self._laid_out(x[:, : self.length], 1 if self.length % self.count == 0 else None)

    def whole(self, tokens):
        """`KeyValues` of (1, K, S, H) of those of the parts, for every device to have."""
        keys, values, positions = tokens

        def of_one_row(x):
            x = ops.swapaxes(x, 0, 1)
            return ops.reshape(x, (1, x.shape[0], -1, x.shape[3]))

        return type(tokens)(of_one_row(keys), of_one_row(values), ops.reshape(positions, (1, -1)))

    def _laid_out(self, x, axis):
        axes = tuple(self.axis if i == axis else None for i in range(len(x.shape)))
        layout = keras.distribution.TensorLayout(axes, self.device_mesh)
        return keras.distribution.distribute_tensor(x, layout)
