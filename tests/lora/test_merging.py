"""Adapters merged into a kernel and taken out of it again, or all left as it was."""

import numpy as np
import pytest
from adapted_layers import UNITS, VARIANTS, delta, dense_with, inputs, numbers
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.lora import merging


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_and_unmerged(dtype):
    """The output stays, the kernel comes back; nothing of the kernel's size is kept."""
    layer = dense_with(VARIANTS, dtype)
    layer.active = {"plain": 0.5, "dora": 1.0}
    before, kernel = numbers(layer(inputs())), numbers(layer._kernel)
    layer.merge()
    active, layer.active = layer.active, {}
    np.testing.assert_allclose(numbers(layer(inputs())), before, **TOLERANCE[dtype])
    assert np.abs(numbers(layer._kernel) - kernel).max() > 0.1
    kept = (layer.merged[0], *layer.merged[1].values())
    assert all(np.size(ops.convert_to_numpy(values)) <= UNITS for values in kept)
    layer.unmerge()
    layer.active = active
    np.testing.assert_allclose(numbers(layer._kernel), kernel, **TOLERANCE[dtype])
    np.testing.assert_allclose(numbers(layer(inputs())), before, **TOLERANCE[dtype])


def test_an_adapter_beside_a_quantized_kernel():
    layer = dense_with({"plain": VARIANTS["plain"]})
    added = inputs() @ delta(layer, "plain", VARIANTS["plain"])
    layer.quantize("int8")
    got = ops.convert_to_numpy(layer(inputs()))
    layer.active = {}
    base = ops.convert_to_numpy(layer(inputs()))
    np.testing.assert_allclose(got - base, added, rtol=1e-4, atol=1e-4)
    kernel = numbers(layer.float_matrix())
    layer.active = {"plain": 1.0}
    layer.merge()
    wanted = kernel + delta(layer, "plain", VARIANTS["plain"], kernel)
    step = np.abs(wanted).max(axis=0) / 127
    assert np.all(np.abs(numbers(layer.float_matrix()) - wanted) <= 0.51 * step)
    layer.unmerge()
    np.testing.assert_array_equal(numbers(layer.float_matrix()), kernel)
    with pytest.raises(ValueError, match="use_dora=True"):
        layer.add_adapter("other", VARIANTS["dora"])


def test_kernels_without_active_adapters_stay():
    layer = dense_with(VARIANTS)
    kernel = numbers(layer.matrix_variable)
    for active in ({}, {"elsewhere": 1.0}):
        layer.active = active
        merging.merge(layer)
        assert layer.merged is None
        merging.unmerge(layer)
        np.testing.assert_array_equal(numbers(merging.merged_kernel(layer)), kernel)
    np.testing.assert_array_equal(numbers(layer.matrix_variable), kernel)


def test_what_is_merged_is_merged_once():
    layer = dense_with({"plain": VARIANTS["plain"]})
    wanted = numbers(layer.matrix_variable) + delta(layer, "plain", VARIANTS["plain"])
    merging.merge(layer)
    merging.merge(layer)
    np.testing.assert_allclose(numbers(layer.matrix_variable), wanted, **TOLERANCE["float32"])


@pytest.mark.once
@pytest.mark.parametrize("mode", [None, "int8", "int4"])
@pytest.mark.parametrize("change", [merging.merge, merging.unmerge])
def test_a_change_that_is_interrupted_leaves_all_as_it_was(mode, change, monkeypatch):
    layer = dense_with({"plain": VARIANTS["plain"]})
    if mode is not None:
        layer.quantize(mode)
    if change is merging.unmerge:
        merging.merge(layer)
    variables = [layer.matrix_variable] if mode is None else layer.code_variables
    before, merged = [numbers(variable) for variable in variables], layer.merged
    last = variables[-1]
    assign, calls = last.assign, []

    def interrupted(value):
        assign(value)
        calls.append(value)
        if len(calls) == 1:  # not while the values of before are put back
            raise KeyboardInterrupt

    monkeypatch.setattr(last, "assign", interrupted)
    with pytest.raises(KeyboardInterrupt):
        change(layer)
    assert len(calls) == 2 and (layer.merged is None) == (merged is None)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(numbers(variable), value)


@pytest.mark.once
def test_kernels_that_are_calibrated_take_no_adapter(monkeypatch):
    layer = dense_with({"plain": VARIANTS["plain"]})
    monkeypatch.setattr(type(layer), "quantization_mode", "gptq")
    with pytest.raises(ValueError, match="Received: dense, quantized by 'gptq'. Merge before"):
        merging.merged_kernel(layer)
