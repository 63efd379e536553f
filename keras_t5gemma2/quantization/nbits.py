"""Integers of a layer as onnxruntime's MatMulNBits has them: a row of blocks for each output.

A number is `(code - zero) * scale`, with codes from 0. A block is a power of two from 16 to 256;
longer ones, and a scale for all of a column, become several with the same scale.
"""

import numpy as np
from keras import ops

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.kernels.export.onnx_nodes import NBits
from keras_t5gemma2.messages import shown
from keras_t5gemma2.quantization.layers import Quantizable

# Of few scales is a product the quickest, but numbers that fill up a last block are stored too.
_BLOCKS = (128, 64, 32, 16)
_SMALLEST, _LARGEST = 16, 256


def nbits_of_layers(model):
    """Per `id` of a layer whose matrix is of 8 or 4 bits, its `NBits`.

    Args:
        model: `keras.layers.Layer`, whose inner layers are looked at.

    Raises:
        ValueError: a layer has integers that no such node computes with.
    """
    found = [x for x in compat.all_layers(model) if isinstance(x, Quantizable) and x.has_integers]
    for layer in found:
        _check(layer)
    return {id(layer): _nbits(layer) for layer in found}


def nbits_and_level(model, accuracy_level=0):
    """What `onnx_nodes.written` takes, of a model and what a user has given."""
    weights = nbits_of_layers(model)
    allowed = (0, 4) if weights else (0,)
    if type(accuracy_level) is not int or accuracy_level not in allowed:
        raise ValueError(
            "`accuracy_level` must be 0, which computes with inputs in floats, or of a quantized "
            "model 4, which rounds them to 8 bits. Received: "
            f"accuracy_level={shown(accuracy_level)}"
        )
    return weights, accuracy_level


def _check(layer):
    mode, block = layer.quantization_mode, None
    if mode in ("int8", "int4") and not layer.stores_floats:
        if mode == "int8" and layer.inputs_quantizer is not None:
            mode = "int8 with inputs rounded to 8 bits"
        else:
            block = layer.scheme.block
            if not block or block >= layer.matrix_shape[layer.axis] or block % _SMALLEST == 0:
                return
    received = f"blocks of {block}" if block else "fp8" if layer.stores_floats else mode
    raise ValueError(
        'A quantized model for format="onnx" must have weights of 8 or 4 bits, in columns or in '
        f"blocks of a multiple of {_SMALLEST}: MatMulNBits of onnxruntime knows no others. "
        f"Received: {shown(received)} in {layer.path}. Export a model that was loaded with "
        'quantize="int8" or quantize="int4", or the model in floats'
    )


def _nbits(layer):
    codes, scale, *zero = (ops.convert_to_numpy(variable) for variable in layer.code_variables)
    scheme, (count, length) = layer.scheme, layer.matrix_shape[:: 1 if layer.axis else -1]
    codes = codes.view("uint8")
    if scheme.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
        codes = codes[:, : layer.matrix_shape[1]]
    codes = codes ^ (1 << (scheme.bits - 1))  # so that the lowest one is 0
    if layer.axis == 0:
        codes, scale, *zero = (np.ascontiguousarray(x.T) for x in (codes, scale, *zero))
    scale = scale.astype("float32")
    if not scheme.block:  # by which codes are divided
        scale = 1 / scale[:, None]
    block = _block(scheme.block, length)
    blocks = -(-length // block)
    times = -(-blocks // scale.shape[1]) if scale.shape[1] == 1 else scheme.block // block
    scale, *zero = (np.repeat(x, times, axis=1)[:, :blocks] for x in (scale, *zero))
    middle = 1 << (scheme.bits - 1)
    codes = np.pad(codes, [(0, 0), (0, blocks * block - length)], constant_values=middle)
    codes = codes.reshape(count, blocks, block)
    zeros = None
    if zero and zero[0].any():
        zeros = (zero[0].astype("int16") + middle).astype("uint8")
        zeros = np.pad(zeros, [(0, 0), (0, blocks % 2)])
        zeros = _pairs(zeros)
    if scheme.bits == 4:
        codes = _pairs(codes)
    return NBits(codes, scale, zeros, scheme.bits, block, length)


def _block(given, length):
    """The size of a block for the node, of blocks of a given size or of none."""
    if not given or given >= length:
        return min(_BLOCKS, key=lambda size: (-(-length // size) * size, -size))
    return min(given & -given, _LARGEST)


def _pairs(codes):
    """Two to a byte along the last axis, the first of the two in the lower bits."""
    return codes[..., ::2] | (codes[..., 1::2] << 4)
