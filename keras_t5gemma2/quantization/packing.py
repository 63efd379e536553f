"""Matrices of 4 bits as a CPU's product with few rows reads them, where there is such a product."""

from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.quantization.dequantize import unpacked

_ROWS_AT_A_TIME = 16_384
_BLOCKS = (256, 128, 64, 32)  # that such products know


class Packed:
    """The codes of a layer once more, packed when they are first read and after each change.

    It is no part of any file, and takes as much memory as the codes.
    """

    def __init__(self):
        self._state, self._blocks = None, None

    def of(self, layer, stored):
        """What `kernels.times_blocks` takes, of the tensors `stored` of a layer of 4 bits."""
        if self._state != (state := kernels.state_of(stored)):
            self._state, self._blocks = state, _packed(layer, *stored)
        return self._blocks


def is_packed(layer, x):
    """Whether the product of `x` and a layer of 4 bits is one of packed codes."""
    shape, axis = layer.matrix_shape, layer.axis
    block = layer.scheme.block or _common(shape[axis])
    return block in _BLOCKS and kernels.packs_blocks(x, (shape[axis], shape[1 + axis]), block)


def _common(length):
    return next((block for block in _BLOCKS if length % block == 0), None)


def _packed(layer, codes, scale, zero=None):
    width, length = layer.matrix_shape[1], layer.matrix_shape[layer.axis]
    if layer.axis == 0:
        pieces = [ops.transpose(unpacked(codes, width))]
    else:
        starts = range(0, len(codes), _ROWS_AT_A_TIME)
        pieces = (unpacked(codes[start : start + _ROWS_AT_A_TIME], width) for start in starts)
        scale, zero = (None if x is None else ops.transpose(x) for x in (scale, zero))
    block = layer.scheme.block or _common(length)
    scale = ops.cast(scale, "float32")
    if zero is None:  # one for all of an axis, by which codes are divided
        scale = ops.broadcast_to(1.0 / scale, (length // block, *scale.shape))
    return kernels.packed_blocks(pieces, scale, 0 * scale if zero is None else zero, block)
