"""Rounded weights of training: those that quantization makes, bit for bit, and their gradients."""

import keras
import numpy as np
import pytest
import torch
from gradients import value_and_gradients
from keras import ops

from keras_t5gemma2.quantization.codes import quantized
from keras_t5gemma2.quantization.lattices import rounded
from keras_t5gemma2.quantization.layers import QuantizedDense, QuantizedEmbedding
from keras_t5gemma2.quantization.schemes import config_of_name, scheme_of

MODES = ["int8", "int4", "int4/-1", "int4/8", "q4_0", "int4_sym/32", "fp8"]


def matrix(shape=(70, 36), seed=0):
    """With equal extremes, a block of zeros, and a column of zeros."""
    found = np.random.default_rng(seed).normal(size=shape).astype("float32")
    found[3, 2], found[5, 2] = 4.0, -4.0
    found[32:64, 5] = 0.0
    found[:, 7] = 0.0
    return found


def layers(mode, values, dtype="float32"):
    """A dense layer and a table of the values, prepared; and their quantized matrices."""
    config = config_of_name(mode)
    dense, table = QuantizedDense(values.shape[1], dtype=dtype), None
    dense.build((None, values.shape[0]))
    table = QuantizedEmbedding(*values.shape, dtype=dtype)
    table.build()
    for layer in (dense, table):
        layer.matrix_variable.assign(values)
        layer.prepare(config)
    return dense, table


def numbers(x):
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32")))


@pytest.mark.parametrize("mode", MODES)
def test_rounded_weights_are_those_after_quantization_bit_for_bit(mode):
    """In programs that are compiled, too; and products and rows of tables are near."""
    x = np.random.default_rng(1).normal(size=(3, 70)).astype("float32")
    ids = np.array([[0, 69, 3]])
    dense, table = layers(mode, matrix())
    jitted = jitted_rounding(mode)
    before = [(numbers(layer.float_matrix()), numbers(jitted(layer))) for layer in (dense, table)]
    outputs = numbers(dense(x)), numbers(table(ids)), numbers(table(x[:, :36], reverse=True))
    for layer, (plain, compiled) in zip((dense, table), before, strict=True):
        layer.quantize(layer.lattice.mode, config=layer.lattice)
        after = numbers(layer.float_matrix())
        np.testing.assert_array_equal(plain, after)
        np.testing.assert_array_equal(compiled, after)
    again = numbers(dense(x)), numbers(table(ids)), numbers(table(x[:, :36], reverse=True))
    for one, other in zip(outputs, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def jitted_rounding(mode):
    """A function of a layer that rounds its matrix inside of a compiled program."""
    from keras_t5gemma2 import kernels

    scheme = scheme_of(config_of_name(mode))

    def run(layer):
        def round_it(x):
            return rounded(x, scheme, layer.axis, "float32", "float32")

        if keras.config.backend() == "jax":
            import jax

            return jax.jit(round_it)(ops.convert_to_tensor(layer.matrix_variable))
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf

            return tf.function(round_it, jit_compile=True)(
                ops.convert_to_tensor(layer.matrix_variable)
            )
        assert not kernels.IS_COMPILED
        return round_it(layer.matrix_variable)

    return run


@pytest.mark.parametrize("mode", ["int8", "int4", "q4_0", "int4_sym/32", "fp8"])
def test_gradients_are_those_of_the_matrix_and_zero_where_it_is_clipped(mode):
    scheme, values = scheme_of(config_of_name(mode)), matrix((64, 8))
    weights = np.random.default_rng(2).normal(size=values.shape).astype("float32")

    def loss(x):
        return ops.sum(rounded(x, scheme, 0, "float32", "float32") * ops.convert_to_tensor(weights))

    _, (found,) = value_and_gradients(loss, [ops.convert_to_tensor(values)])
    is_passed = found == weights
    assert is_passed[found != 0].all()
    codes = quantized(values, scheme, 0, "float32")
    assert (found == 0).sum() == clipped(values, codes, scheme).sum()
    if mode in ("q4_0", "int4_sym/32"):
        assert (found == 0).any()


def clipped(values, codes, scheme):
    """Which numbers lie outside of the range of the codes, written out."""
    if scheme.block is None:
        return np.zeros(values.shape, bool)
    blocks = values.reshape(-1, scheme.block, values.shape[1])
    far = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], axis=1)
    if scheme.kind == "q4_0":
        inverse = np.float32(1) / np.where(far == 0, np.float32(np.inf), far / -8)
        exact = np.trunc(blocks * inverse + np.float32(8.5)) - 8
    elif scheme.kind:
        size = np.abs(far) / np.float32(7.5)
        exact = np.rint(blocks * (np.float32(1) / np.where(size == 0, 1, size)))
    else:
        scale = codes.scale[:, None]
        exact = np.rint(blocks / scale) + codes.zero[:, None]
    return ((exact > 7) | (exact < -8)).reshape(values.shape)


@pytest.mark.once
@pytest.mark.parametrize("seed", [0, 1])
def test_q4_0_is_that_of_gguf(seed):
    gguf = pytest.importorskip("gguf")
    values = matrix((64, 36), seed)
    dense, _ = layers("q4_0", values)
    dense.quantize("int4", config=dense.lattice)
    kind = gguf.GGMLQuantizationType.Q4_0
    want = gguf.dequantize(gguf.quantize(np.ascontiguousarray(values.T), kind), kind).T
    np.testing.assert_array_equal(numbers(dense.float_matrix()), want)


@pytest.mark.once
def test_symmetric_blocks_are_those_of_torchao():
    """As torchao 0.18 has it: the largest number is 7.5 steps, and codes go from -8 to 7."""
    values = matrix((64, 36))
    dense, _ = layers("int4_sym/32", values)
    dense.quantize("int4", config=dense.lattice)
    blocks = values.reshape(2, 32, 36)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(7.5)
    scale = np.where(scale == 0, np.float32(1), scale)
    want = np.clip(np.rint(blocks * (np.float32(1) / scale)), -8, 7) * scale
    np.testing.assert_array_equal(numbers(dense.float_matrix()), want.reshape(64, 36))


@pytest.mark.once
def test_floats_of_8_bits_are_those_of_torch():
    """The largest number of a column is 448; small ones, too, are of three binary places."""
    values = matrix((64, 36)) * np.geomspace(1e-5, 1, 64)[:, None].astype("float32")
    dense, _ = layers("fp8", values)
    dense.quantize("int8", config=dense.lattice)
    largest = np.abs(values).max(axis=0)
    scale = np.where(largest > 0, np.float32(448) / np.where(largest > 0, largest, 1), 1)
    stored = torch.from_numpy((values * scale).astype("float32")).to(torch.float8_e4m3fn)
    want = stored.float().numpy() / scale.astype("float32")
    np.testing.assert_array_equal(numbers(dense.float_matrix()), want)
    assert dense.code_variables[0].dtype == "int8"


@pytest.mark.once
def test_bfloat16_models_round_as_their_integers_do():
    for mode in MODES:
        dense, _ = layers(mode, matrix(), dtype="bfloat16")
        before = numbers(dense.float_matrix())
        dense.quantize(dense.lattice.mode, config=dense.lattice)
        np.testing.assert_array_equal(numbers(dense.float_matrix()), before, err_msg=mode)


@pytest.mark.once
def test_mixed_policies_round_the_float32_numbers():
    """Inside of a call, where Keras casts variables, too."""
    x = np.random.default_rng(1).normal(size=(3, 70)).astype("float32")
    for mode in ("int8", "int4"):
        dense, table = layers(mode, matrix(), dtype="mixed_bfloat16")
        before = numbers(dense(x)), numbers(table(np.array([[0, 3]])))
        for layer in (dense, table):
            layer.quantize(layer.lattice.mode, config=layer.lattice)
        again = numbers(dense(x)), numbers(table(np.array([[0, 3]])))
        # The same numbers, but a sum of rounded ones or a rounded sum.
        bound = np.abs(x) @ np.abs(numbers(dense.float_matrix())) * 2.0**-7
        assert (np.abs(before[0] - again[0]) <= bound).all()
        np.testing.assert_array_equal(before[1], again[1])
