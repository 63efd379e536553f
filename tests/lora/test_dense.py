"""The dense layer with adapters: what it computes, in every variant, merged or not."""

import keras
import numpy as np
import pytest
from adapted_layers import UNITS, VARIANTS, WIDTH, delta, dense_with, inputs, numbers
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.lora import dense as dense_module
from keras_t5gemma2.lora.config import LoRAConfig


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_is_that_of_the_written_out_kernel(variant):
    config = VARIANTS[variant]
    layer = dense_with({"a": config})
    want = inputs() @ (numbers(layer._kernel) + delta(layer, "a", config))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(inputs())), want, **TOLERANCE["float32"])


def test_a_weighted_sum_adds_what_each_adapter_adds():
    layer = dense_with(VARIANTS)
    layer.active = {"plain": 0.25, "dora": -1.5, "elsewhere": 2.0}
    kernel = numbers(layer._kernel) + 0.25 * delta(layer, "plain", VARIANTS["plain"])
    kernel = kernel - 1.5 * delta(layer, "dora", VARIANTS["dora"])
    got = ops.convert_to_numpy(layer(inputs()))
    np.testing.assert_allclose(got, inputs() @ kernel, **TOLERANCE["float32"])
    layer.active = {}
    got, want = ops.convert_to_numpy(layer(inputs())), inputs() @ numbers(layer._kernel)
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
def test_an_untrained_adapter_changes_nothing_and_is_float32(dtype):
    """Bit for bit in DoRA too: its factors are then exactly one."""
    layer = dense_with(VARIANTS, dtype, random=False)
    got = numbers(layer(inputs()))
    layer.active = {}
    np.testing.assert_allclose(got, numbers(layer(inputs())), atol=1e-6, rtol=1e-6)
    adapters = [v for a in layer.adapters.values() for v in a.variables.values()]
    assert len(adapters) == 7 and {variable.dtype for variable in adapters} == {"float32"}
    a = numbers(layer.adapters["plain"].a)
    assert 0.5 * WIDTH**-0.5 < np.abs(a).max() <= WIDTH**-0.5  # as torch's and peft's


def test_neither_the_sum_with_the_kernel_nor_the_product_is_formed(monkeypatch):
    layer = dense_with(VARIANTS)
    shapes = []

    def spy(x, y, matmul=ops.matmul):
        shapes.append(matmul(x, y).shape)
        return matmul(x, y)

    monkeypatch.setattr(dense_module.ops, "matmul", spy)
    layer(inputs())
    assert len(shapes) >= 6 and (WIDTH, UNITS) not in [tuple(shape) for shape in shapes]


def test_dropout_is_of_the_adapter_and_of_training_only():
    layer = dense_with({"a": LoRAConfig(rank=3, dropout=0.5)})
    still = ops.convert_to_numpy(layer(inputs()))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(inputs(), training=False)), still)
    assert np.abs(ops.convert_to_numpy(layer(inputs(), training=True)) - still).max() > 0.1
    layer.adapters["a"].b.assign(np.zeros((3, UNITS)))
    base = inputs() @ numbers(layer._kernel)
    got = ops.convert_to_numpy(layer(inputs(), training=True))
    np.testing.assert_allclose(got, base, **TOLERANCE["float32"])


def test_a_removed_adapter_leaves_nothing():
    layer = dense_with({"a": LoRAConfig(rank=2, dropout=0.1), "b": VARIANTS["dora"]})
    layer.remove_adapter("a")
    layer.remove_adapter("never there")
    assert [v.path for v in layer.variables] == [
        *("dense/kernel", "dense/b_lora_a", "dense/b_lora_b", "dense/b_magnitude")
    ]
    assert layer.dropouts == {} and list(layer.adapters) == ["b"]


@pytest.mark.once
def test_kerass_own_adapters_are_refused():
    layer = dense_with({})
    with pytest.raises(ValueError, match="call of `enable_lora` of the layer dense"):
        layer.enable_lora(4)
    assert isinstance(layer, keras.layers.Dense)
