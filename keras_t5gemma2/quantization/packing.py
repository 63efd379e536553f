"""Matrices of 4 bits as a CPU's product with few rows reads them, where there is such a product."""

from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.quantization.dequantize import unpacked

_ROWS_AT_A_TIME = 16_384
# What such products know: sizes of blocks, and multiples of columns.
_BLOCKS, _COLUMNS = (256, 128, 64, 32), 64


class Packed:
    """The codes of a layer once more, packed when they are first read and after each change.

    It is no part of any file, and takes as much memory as the codes. Changes are those of Keras
    and of operations in place; what is written past torch's autograd, through `.data`, is not seen.
    """

    def __init__(self):
        self._stored, self._state, self._blocks = None, None, None

    def of(self, layer, stored):
        """What `kernels.times_blocks` takes, of the tensors `stored` of a layer; maybe `None`."""
        state = kernels.state_of(stored)
        if state is None or state != self._state:
            blocks = None if state is None else _packed(layer, *stored)
            # Kept beside their state, no other tensors can come to lie where these did.
            self._stored, self._state, self._blocks = stored, state, blocks
        return self._blocks


def _packed(layer, codes, scale, zero=None):
    width, length = layer.matrix_shape[1], layer.matrix_shape[layer.axis]
    block = layer.scheme.block or next((size for size in _BLOCKS if length % size == 0), None)
    if block not in _BLOCKS or length % block or layer.matrix_shape[1 + layer.axis] % _COLUMNS:
        return None
    if layer.axis == 0:
        pieces = [ops.transpose(unpacked(codes, width))]
    else:
        starts = range(0, len(codes), _ROWS_AT_A_TIME)
        pieces = (unpacked(codes[start : start + _ROWS_AT_A_TIME], width) for start in starts)
        scale, zero = (None if x is None else ops.transpose(x) for x in (scale, zero))
    scale = ops.cast(scale, "float32")
    if zero is None:  # one for all of an axis, by which codes are divided
        scale = ops.broadcast_to(1.0 / scale, (length // block, *scale.shape))
    return kernels.packed_blocks(pieces, scale, 0 * scale if zero is None else zero, block)
