"""Small quantized tasks, and the same in floats: what they have to compute."""

import keras
import numpy as np
from keras import ops
from tasks import small_task

from keras_t5gemma2.quantization.layers import Quantizable

# How to quantize, and what the layers are called then.
WAYS = {
    "int8": "int8",
    "int4": "int4",
    "blocks of 8": keras.quantizers.Int4QuantizationConfig(block_size=8),
    "int4 columns": keras.quantizers.Int4QuantizationConfig(block_size=None),
}


def quantized_task(way, **kwargs):
    lm = small_task(**kwargs)
    lm.quantize(WAYS.get(way, way))
    return lm


def quantize_layer(layer, way):
    """The layer alone, whose inputs are not rounded."""
    config = WAYS[way]
    if config == "int8":
        config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    elif config == "int4":
        config = keras.quantizers.Int4QuantizationConfig()
    layer.quantize(config.mode, config=config)
    return layer


def in_floats(lm, **kwargs):
    """A task of floats whose weights are those that the integers of `lm` stand for."""
    other = small_task(**kwargs)
    values = {weight.path: ops.convert_to_numpy(weight) for weight in lm.backbone.weights}
    for layer in matrices(lm.backbone):
        path = f"{layer.path}/{layer.matrix}"
        values[path] = ops.convert_to_numpy(layer.float_matrix())
    for weight in other.backbone.weights:
        weight.assign(values[weight.path])
    return other


def matrices(backbone):
    return [layer for layer in backbone._flatten_layers() if isinstance(layer, Quantizable)]


def modes(backbone):
    return {layer.path: layer.quantization_mode for layer in matrices(backbone)}


def num_bytes(model):
    return sum(int(np.prod(w.shape)) * np.dtype(w.dtype).itemsize for w in model.weights)
