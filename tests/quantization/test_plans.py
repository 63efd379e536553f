"""Which layers are built with integers, and the order of what these keep in files."""

import threading
import types

import keras
import numpy as np
import pytest
from quantized_tasks import WAYS, quantize_layer

from keras_t5gemma2.quantization import plans
from keras_t5gemma2.quantization.layers import QuantizedDense, QuantizedEmbedding
from keras_t5gemma2.quantization.plans import Plan, plan_of_modes, planned

pytestmark = pytest.mark.once


def test_a_plan_is_in_effect_inside():
    layer, found = keras.layers.Dense(1), []
    assert not plans.is_planned() and plans.planned_mode(layer) is None
    with planned(Plan(lambda layer: "int8", rounds_activations=True)):
        with planned(None):  # changes nothing
            assert plans.planned_mode(layer) == "int8" and plans.rounds_activations()
        with planned(Plan(lambda layer: None)):
            assert plans.is_planned() and plans.planned_mode(layer) is None
            assert not plans.rounds_activations()
        thread = threading.Thread(target=lambda: found.append(plans.is_planned()))
        thread.start()
        thread.join()
        assert plans.rounds_activations()
    assert found == [False]
    assert not plans.is_planned() and not plans.rounds_activations()


def test_modes_by_path():
    assert plan_of_modes({}) is None
    plan = plan_of_modes({"dense": "int4/8"}, rounds_activations=True)
    layer = types.SimpleNamespace(path="dense")
    assert plan.mode_of(layer) == "int4/8" and plan.rounds_activations
    assert plan.mode_of(types.SimpleNamespace(path="other")) is None


@pytest.mark.parametrize(
    "mode", ["int8", "int4/-1", "int4/128", "gptq/2/-1", "gptq/8/64", "awq/4/9999999"]
)
def test_modes(mode):
    assert plans.is_mode(mode)


@pytest.mark.parametrize(
    "mode",
    [
        *("", "int4", "int8/3", "int4/0", "int4/-2", "int4/012", "int4/12345678", "gptq/5/8"),
        *("awq/8/8", "float8", "int8\n", " int8", None, 8, ["int8"]),
    ],
)
def test_what_is_no_mode(mode):
    assert not plans.is_mode(mode)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_variables_are_in_files_in_this_order(way, has_bias):
    """Against what the layer itself writes."""
    dense = QuantizedDense(6, use_bias=has_bias)
    dense.build((None, 16))
    table = QuantizedEmbedding(10, 16)
    table.build()
    for layer in (dense, table):
        quantize_layer(layer, way)
        store = {}
        layer.save_own_variables(store)
        mode = plans.mode_of(layer)
        assert plans.is_mode(mode)
        saved = plans.saved_variables(mode, layer.matrix, has_bias and layer is dense)
        assert [str(i) for i in range(len(saved))] == list(store)
        for (name, dtype), variable in zip(saved.items(), store.values(), strict=True):
            assert variable.path.rpartition("/")[2] == name
            found = keras.backend.standardize_dtype(variable.dtype)
            assert found == (dtype or "float32")


def test_variables_of_calibrated_layers():
    found = plans.saved_variables("awq/4/8", "kernel", has_bias=False)
    assert list(found) == ["kernel", "kernel_scale", "kernel_zero", "awq_scales", "g_idx"]
    assert [name for name, dtype in found.items() if dtype == "uint8"] == ["kernel", "kernel_zero"]
    assert next(iter(plans.saved_variables("gptq/4/8", "kernel", has_bias=True))) == "bias"
    assert np.dtype("uint8") == found["kernel"]
