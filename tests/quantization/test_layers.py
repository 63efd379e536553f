"""Layers of integers: what they compute is that of the matrix that their integers stand for."""

import keras
import numpy as np
import pytest
from keras import ops
from quantized_tasks import WAYS, quantize_layer
from tolerances import TOLERANCE

from keras_t5gemma2.quantization import layers as module
from keras_t5gemma2.quantization.layers import QuantizedDense, QuantizedEmbedding
from keras_t5gemma2.quantization.plans import plan_of_modes, planned

# On every backend, models of such layers are tested in `tests/model/test_quantize.py`.
pytestmark = pytest.mark.once


def dense(rng, width=20, units=7, **options):
    """Seven units, of which two do not fill their bytes, and 20 inputs: no whole blocks."""
    layer = QuantizedDense(units, name="dense", **options)
    layer.build((None, width))
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def table(rng, **options):
    layer = QuantizedEmbedding(11, 20, name="table", **options)
    layer.build()
    layer.embeddings.assign(rng.normal(size=(11, 20)))
    return layer


def numbers(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.mark.parametrize("way", WAYS)
def test_a_dense_layer_multiplies_by_its_matrix(way, rng):
    layer = dense(rng, activation="relu")
    kernel, bias = numbers(layer.kernel), numbers(layer.bias)
    quantize_layer(layer, way)
    matrix = numbers(layer.float_matrix())
    assert layer.matrix_shape == matrix.shape == (20, 7)
    steps = 127 if layer.scheme.bits == 8 else 7
    assert 0 < np.abs(matrix - kernel).max() < 0.7 * np.abs(kernel).max() / steps
    x = rng.normal(size=(2, 3, 20)).astype("float32")
    wanted = np.maximum(x @ matrix + bias, 0)
    np.testing.assert_allclose(numbers(layer(x)), wanted, **TOLERANCE["float32"])


@pytest.mark.parametrize("way", WAYS)
def test_a_table_gives_its_rows_and_logits(way, rng, monkeypatch):
    """Logits piece by piece, four rows at a time."""
    monkeypatch.setattr(module, "_BYTES_AT_A_TIME", 4 * 20 * 4)
    layer = quantize_layer(table(rng, logit_soft_cap=2.0), way)
    matrix = numbers(layer.float_matrix())
    ids = np.array([[0, 10], [3, 3]], "int32")
    np.testing.assert_allclose(numbers(layer(ids)), matrix[ids], rtol=1e-6, atol=1e-6)
    x = rng.normal(size=(2, 3, 20)).astype("float32")
    wanted = 2 * np.tanh(x @ matrix.T / 2)
    found = layer(x, reverse=True)
    np.testing.assert_allclose(numbers(found), wanted, **TOLERANCE["float32"])


def test_logits_are_float32_whatever_the_dtype(rng):
    for way in (None, "int8", "blocks of 8"):
        layer = table(rng, dtype="bfloat16")
        layer = layer if way is None else quantize_layer(layer, way)
        logits = layer(np.ones((2, 20), "float32"), reverse=True)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        spec = layer.compute_output_spec(keras.KerasTensor((2, 20)), reverse=True)
        assert (spec.shape, spec.dtype) == ((2, 11), "float32")


@pytest.mark.parametrize("make", [dense, table])
@pytest.mark.parametrize("way", WAYS)
def test_values_that_stand_for_a_matrix(make, way, rng):
    """Those of the variables, in their order; of other numbers they are other codes."""
    layer = make(rng)
    matrix = numbers(layer.matrix_variable)
    quantize_layer(layer, way)
    values = layer.quantized_values(matrix)
    for variable, value in zip(layer.quantized_variables, values, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    layer.assign_codes(layer.codes_of(2 * matrix))
    wanted = quantize_layer(make(np.random.default_rng(0)), way)
    wanted = 2 * numbers(wanted.float_matrix())
    np.testing.assert_allclose(numbers(layer.float_matrix()), wanted, rtol=1e-5)


@pytest.mark.parametrize("make", [dense, table])
def test_quantizing_that_is_interrupted_leaves_the_layer_as_it_was(make, rng, monkeypatch):
    layer = make(rng)
    before = [(v.path, numbers(v)) for v in layer.variables]
    x = np.zeros((2, 20)) if make is dense else np.zeros((2, 1), "int32")
    wanted = numbers(layer(x))

    def interrupted(self, codes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Quantizable, "assign_codes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantize_layer(layer, "blocks of 8")
    assert layer.quantization_mode is None and not layer.has_integers
    for variable, (path, value) in zip(layer.variables, before, strict=True):
        assert variable.path == path
        np.testing.assert_array_equal(numbers(variable), value)
    np.testing.assert_array_equal(numbers(layer(x)), wanted)
    assert quantize_layer(layer, "blocks of 8").scheme.block == 8  # then it goes on


def test_a_planned_layer_is_built_with_integers():
    with planned(plan_of_modes({"dense": "int4/8"})):
        layer = QuantizedDense(6, name="dense")
        layer.build((None, 16))
    message, half = "cannot be computed with in float16", plan_of_modes({"half": "int8"})
    with planned(half), pytest.raises(ValueError, match=message):
        QuantizedDense(6, name="half", dtype="float16").build((None, 16))
    assert layer.quantization_mode == "int4" and layer.scheme.block == 8
    assert {v.path for v in layer.variables} >= {"dense/kernel", "dense/kernel_scale"}


@pytest.mark.parametrize("is_rounded", [False, True])
def test_inputs_of_8_bits_are_rounded_where_the_plan_says_so(is_rounded):
    with planned(plan_of_modes({"dense": "int8"}, rounds_activations=is_rounded)):
        layer = QuantizedDense(6, name="dense")
        layer.build((None, 16))
    assert (layer.inputs_quantizer is not None) == is_rounded
