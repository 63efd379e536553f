"""Adapters on quantized weights: trained, saved, loaded and merged."""

import keras
import numpy as np
import pytest
from keras import ops
from quantized_tasks import in_floats, matrices, quantized_task
from tasks import SMALL_ROWS

MODES = ["int4", pytest.param("int8", marks=pytest.mark.once)]


def adapted(lm, seed=0):
    """The task, with an adapter far from zero."""
    lm.enable_lora(rank=3, alpha=5)
    rng = np.random.default_rng(seed)
    for variable in sorted(lm.trainable_variables, key=lambda variable: variable.path):
        variable.assign(0.1 * rng.normal(size=variable.shape))
    return lm


@pytest.fixture(scope="module", params=MODES)
def lm(request):
    return adapted(quantized_task(request.param))


def codes(lm):
    return {
        variable.path: ops.convert_to_numpy(variable)
        for layer in matrices(lm.backbone)
        for variable in layer.quantized_variables
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.once
def test_training_is_that_of_the_same_weights_in_floats(mode):
    lm = quantized_task(mode)
    floats = in_floats(lm)
    losses = []
    for task in (lm, floats):
        adapted(task)
        assert all("lora" in variable.path for variable in task.trainable_variables)
        task.compile(optimizer=keras.optimizers.SGD(0.1))
        history = task.fit(SMALL_ROWS, epochs=3, verbose=0, shuffle=False)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][2] < losses[0][0] - 1e-2


@pytest.mark.once
def test_training_with_gradient_checkpointing():
    losses = []
    for is_checkpointing in (False, True):
        lm = adapted(quantized_task("int4"))
        lm.backbone.gradient_checkpointing = is_checkpointing
        lm.compile(optimizer=keras.optimizers.SGD(0.1))
        losses.append(lm.fit(SMALL_ROWS, epochs=2, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.once
def test_an_adapter_in_a_file(lm, tmp_path):
    """It is that of a model of floats: only the shapes have to be the same."""
    lm.save_adapter(tmp_path / "a.safetensors")
    other = quantized_task("int8" if lm.backbone.token_embedding.scheme.bits == 8 else "int4")
    other.load_adapter(tmp_path / "a.safetensors")
    got, wanted = other.predict(SMALL_ROWS, verbose=0), lm.predict(SMALL_ROWS, verbose=0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    text = other.generate("the cat", max_new_tokens=4, cross_attention_cache="shared")
    assert text == lm.generate("the cat", max_new_tokens=4)


@pytest.mark.once
def test_merged_and_unmerged(lm):
    """Merged weights are within half a step of their sum; the integers of before come back."""
    before, beside = codes(lm), lm.predict(SMALL_ROWS, verbose=0)
    layer = lm.backbone.decoder.blocks[0].mlp.down
    wanted = ops.convert_to_numpy(layer.merged_kernel())
    lm.merge_adapter()
    assert not any(layer.active for layer in lm.adapter_set.layers().values())
    merged, scale = layer.float_matrix(), ops.convert_to_numpy(layer.kernel_scale)
    step = scale if layer.scheme.block else 1 / scale
    step = np.repeat(step, 32, axis=0)[:36] if layer.scheme.block else step
    assert np.all(np.abs(ops.convert_to_numpy(merged) - wanted) <= 0.51 * step)
    assert np.abs(lm.predict(SMALL_ROWS, verbose=0) - beside).max() < np.abs(beside).max()
    lm.unmerge_adapter()
    for path, value in codes(lm).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    np.testing.assert_allclose(lm.predict(SMALL_ROWS, verbose=0), beside, rtol=1e-5, atol=1e-5)


@pytest.mark.once
def test_adapters_that_are_merged_when_the_model_is_quantized_stay():
    lm = adapted(quantized_task("int8"))
    lm.remove_adapter("default")
    floats = in_floats(lm)
    adapted(floats)
    wanted = floats.predict(SMALL_ROWS, verbose=0)
    floats.merge_adapter()
    floats.quantize("int8")
    assert floats.adapters == {} and floats.active_adapter is None
    got = floats.predict(SMALL_ROWS, verbose=0)
    assert 0 < np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    with pytest.raises(ValueError, match="nothing to unmerge"):
        floats.unmerge_adapter()
    assert floats.trainable_variables  # norms, as before the adapter


@pytest.mark.once
def test_without_adapters_again_integers_stay_frozen():
    lm = quantized_task("int4")
    trained = [variable.path for variable in lm.trainable_variables]
    adapted(lm).remove_adapter("default")
    assert [variable.path for variable in lm.trainable_variables] == trained
    lm = adapted(in_floats(quantized_task("int4")))
    lm.quantize("int4")
    lm.remove_adapter("default")
    assert sorted(variable.path for variable in lm.trainable_variables) == sorted(trained)


@pytest.mark.once
def test_a_preset_with_both(lm, tmp_path):
    lm.save_to_preset(tmp_path)
    other = type(lm).from_preset(tmp_path)
    assert other.active_adapter == "default"
    got, wanted = other.predict(SMALL_ROWS, verbose=0), lm.predict(SMALL_ROWS, verbose=0)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
