"""Layers' integers in onnxruntime's layout, against the matrix that the layer computes with."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.quantization.layers import QuantizedEmbedding
from keras_t5gemma2.quantization.nbits import nbits_of_layers
from keras_t5gemma2.quantization.schemes import config_of_name


def quantized(axis, mode, length=37, count=10):
    """A layer with a matrix of that many numbers for each of `count` outputs."""
    matrix = np.random.default_rng(0).normal(size=(length, count)) + 0.5
    if axis == 0:
        layer = Dense(count)
        layer.build((None, length))
    else:
        layer, matrix = QuantizedEmbedding(count, length), matrix.T
        layer.build()
    layer.matrix_variable.assign(matrix)
    chosen = config_of_name(mode)
    layer.quantize(chosen.mode, config=chosen)
    return layer


def values(found):
    """(N, length) float32 of an `NBits`, as onnxruntime's documentation defines it."""
    codes, zeros = found.codes, found.zeros
    if found.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
    assert codes.shape[2] == found.block
    middle = np.full(codes.shape[:2], 1 << (found.bits - 1))
    if zeros is not None:
        zeros = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(len(zeros), -1)
        middle = zeros[:, : codes.shape[1]].astype(int)
    floats = (codes.astype(int) - middle[..., None]) * found.scales[..., None]
    return floats.reshape(len(floats), -1)[:, : found.length]


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize(
    ("mode", "length", "block"),
    [
        ("int8", 37, 16),
        ("int8", 256, 128),
        ("int4/-1", 37, 16),
        ("int4/32", 37, 32),
        ("int4/32", 96, 32),
        ("int4/48", 100, 16),
        ("int4/64", 37, 16),
        ("int4/512", 1030, 256),
        ("q4_0", 70, 32),
        ("int4_sym/16", 37, 16),
    ],
)
def test_they_stand_for_the_same_numbers(axis, mode, length, block):
    layer = quantized(axis, mode, length)
    (found,) = nbits_of_layers(layer).values()
    assert (found.block, found.length) == (block, length)
    assert (found.zeros is not None) == (mode.startswith("int4/") and mode != "int4/-1")
    want = ops.convert_to_numpy(layer.float_matrix())
    want = want if axis else want.T
    np.testing.assert_allclose(values(found), want, rtol=3e-7, atol=1e-7)


def test_floats_have_none():
    layer = Dense(4)
    layer.build((None, 3))
    assert nbits_of_layers(layer) == {}


@pytest.mark.parametrize(
    ("mode", "message"),
    [("int4/24", "Received: 'blocks of 24' in dense"), ("fp8", "Received: 'fp8' in dense")],
)
def test_others_are_refused(mode, message):
    layer = quantized(0, mode)
    with pytest.raises(ValueError, match=rf"of a multiple of 16.*{message}.*or the model in fl"):
        nbits_of_layers(layer)


def test_rounded_inputs_are_refused():
    layer = Dense(4)
    layer.build((None, 3))
    layer.quantize("int8", config=keras.quantizers.Int8QuantizationConfig())
    with pytest.raises(ValueError, match="Received: 'int8 with inputs rounded to 8 bits' in"):
        nbits_of_layers(layer)
