"""Products of few rows with codes of 4 bits packed for them, against what the codes stand for."""

import keras
import numpy as np
import pytest
import torch
from keras import ops
from keras.quantizers import Int4QuantizationConfig

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.ops import reference
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.quantization.dequantize import unpacked
from keras_t5gemma2.quantization.layers import QuantizedEmbedding

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(keras.config.backend() != "torch", reason="torch alone packs codes"),
]


def quantized(axis, shape, block, seed=0):
    """A layer of 4 bits and bfloat16 with a matrix of that shape (in, out)."""
    matrix = np.random.default_rng(seed).normal(size=shape)
    if axis == 0:
        layer = Dense(shape[1], dtype="bfloat16")
        layer.build((None, shape[0]))
    else:
        layer = QuantizedEmbedding(shape[1], shape[0], dtype="bfloat16")
        layer.build()
        matrix = matrix.T
    layer.matrix_variable.assign(matrix)
    layer.quantize("int4", config=Int4QuantizationConfig(block_size=block))
    return layer


def packed(layer, x):
    """Whether the product is one of packed codes."""
    return layer._packed(x, layer._stored()) is not None


def product(layer, x):
    with keras.StatelessScope():
        y = layer(x) if layer.axis == 0 else layer(x, reverse=True)
    return ops.convert_to_numpy(ops.cast(y, "float32"))


def exact_matrix(layer):
    """What the codes stand for, (in, out) float64, of scales as they are stored."""
    codes, scale, *zero = layer.code_variables
    codes = ops.convert_to_numpy(unpacked(codes.value, layer.matrix_shape[1])).astype("float64")
    scale, *zero = (ops.convert_to_numpy(ops.cast(x, "float64")) for x in (scale, *zero))
    if zero:
        codes -= np.repeat(zero[0], layer.scheme.block, axis=layer.axis)
        matrix = codes * np.repeat(scale, layer.scheme.block, axis=layer.axis)
    else:
        matrix = codes / (scale if layer.axis == 0 else scale[:, None])
    return matrix if layer.axis == 0 else matrix.T


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("block", [32, 64, 128, -1])
@pytest.mark.parametrize("rows", [1, 8, 32])
def test_the_product_is_that_of_the_codes(axis, block, rows):
    layer = quantized(axis, (640, 192), block)
    x = ops.cast(np.random.default_rng(1).normal(size=(rows, 1, 640)), "bfloat16")
    assert packed(layer, x)
    want = ops.convert_to_numpy(ops.cast(x, "float64")) @ exact_matrix(layer)
    matrix = layer.float_matrix() if axis == 0 else ops.transpose(layer.float_matrix())
    plain = ops.convert_to_numpy(ops.cast(ops.matmul(x, matrix), "float32"))
    assert (product(layer, x) - want).std() < 1.25 * (plain - want).std() < 0.01 * want.std()


def test_codes_that_change_are_packed_again():
    x = ops.cast(np.ones((1, 640)), "bfloat16")
    layer, other = quantized(0, (640, 192), 32), quantized(0, (640, 192), 32, seed=2)
    before = product(layer, x)
    for mine, its in zip(layer.code_variables, other.code_variables, strict=True):
        mine.assign(its)
    np.testing.assert_array_equal(product(layer, x), product(other, x))
    assert np.abs(before - product(layer, x)).max() > 0.1
    of_first = layer.packed.of(layer, layer._stored())
    assert layer.packed.of(layer, layer._stored()) is of_first  # once, not for each step


def test_other_products_are_of_the_matrix():
    layer = quantized(0, (640, 192), 32)
    assert not packed(layer, ops.cast(np.ones((33, 640)), "bfloat16"))  # many rows
    assert not packed(layer, ops.ones((1, 640)))
    narrow = quantized(0, (640, 190), 32)
    assert not packed(narrow, ops.cast(np.ones((1, 640)), "bfloat16"))
    trained = ops.cast(np.ones((1, 640)), "bfloat16").requires_grad_(True)
    assert not packed(layer, trained)
    layer(trained).sum().backward()
    assert trained.grad is not None


def test_the_portable_product_is_the_same():
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (192, 640)).astype("int8")
    scale, zero = rng.uniform(0.5, 1, (20, 192)), rng.integers(-8, 8, (20, 192))
    given = ops.convert_to_tensor(codes), *(ops.cast(x, "float32") for x in (scale, zero)), 32
    x = ops.cast(rng.normal(size=(2, 640)), "bfloat16")
    found = kernels.times_blocks(x, kernels.packed_blocks([given[0]], *given[1:]))
    want = reference.times_blocks(x, reference.packed_blocks([given[0]], *given[1:]))
    found, want = (ops.convert_to_numpy(ops.cast(y, "float32")) for y in (found, want))
    assert np.abs(found - want).max() < 2**-6 * want.std()


def test_codes_that_count_no_changes_are_not_packed():
    """Tensors that are made in torch's inference mode."""
    with torch.inference_mode():
        layer = quantized(0, (640, 192), 32)
    x = ops.cast(np.ones((1, 640)), "bfloat16")
    assert not packed(layer, x)
    want = product(quantized(0, (640, 192), 32), x)
    np.testing.assert_allclose(product(layer, x), want, rtol=0, atol=0.05 * want.std())
