"""Adapters in files: alone, with a preset, and in Keras's own files."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM

OPTIONS = dict(rank=3, alpha=5, target=["query", "down"], use_dora=True)


def adapted_task(seed=0, **options):
    """A task whose adapters are far from zero."""
    lm = small_task()
    lm.enable_lora(**{**OPTIONS, **options})
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return lm


@pytest.fixture(scope="module")
def lm():
    return adapted_task()


@pytest.fixture(scope="module")
def logits(lm):
    return lm.predict(SMALL_ROWS, verbose=0)


@pytest.fixture
def file(lm, tmp_path):
    lm.save_adapter(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def adapter_values(lm):
    variables = [v for v in lm.weights if "lora_" in v.path or "magnitude" in v.path]
    return {variable.path: ops.convert_to_numpy(variable) for variable in variables}


def assert_same_values(found, expected):
    assert set(found) == set(expected) and expected
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value)


@pytest.mark.once
def test_a_saved_adapter_on_a_fresh_base(file, logits):
    fresh = small_task()
    fresh.load_adapter(file)
    np.testing.assert_allclose(fresh.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-5, atol=1e-5)
    assert fresh.active_adapter == "default" and len(fresh.trainable_variables) == 3 * 4


@pytest.mark.once
def test_loaded_into_an_adapter_that_is_there(file, lm):
    other = adapted_task(seed=1)
    other.load_adapter(file)
    assert_same_values(adapter_values(other), adapter_values(lm))
    for options in (dict(rank=2), dict(alpha=6), dict(use_dora=False), dict(target=["query"])):
        with pytest.raises(ValueError, match=f"'default' must have the configuration.*{file}"):
            adapted_task(**options).load_adapter(file)
    other.load_adapter(file, name="second")
    assert other.active_adapter == "second" and list(other.adapters) == ["default", "second"]


@pytest.mark.once
def test_an_expression_of_the_users_is_kept_as_names(tmp_path):
    lm = adapted_task(target="decoder/.*/(query|up)")
    names = ["decoder/layer_0/attention/query", "decoder/layer_0/mlp/up"]
    assert lm.adapters["default"]["target"] == names
    lm.save(tmp_path / "task.keras")
    assert keras.saving.load_model(tmp_path / "task.keras").adapters == lm.adapters


@pytest.mark.once
def test_a_failed_save_leaves_the_old_file(lm, file, monkeypatch):
    before = file.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        lm.save_adapter(file)
    assert file.read_bytes() == before
    assert set(file.parent.iterdir()) == {file, file.with_suffix(".md")}
    with pytest.raises(IsADirectoryError, match=str(file.parent)):
        lm.save_adapter(file.parent)


# The whole task


@pytest.mark.once
def test_a_preset_with_its_adapters(lm, logits, tmp_path):
    lm.save_to_preset(tmp_path)
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["default.safetensors"]
    loaded = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    np.testing.assert_allclose(loaded.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-5, atol=1e-5)
    assert loaded.active_adapter == "default" and loaded.adapters == lm.adapters


@pytest.mark.once
def test_presets_in_every_way(lm, tmp_path):
    lm.save_to_preset(tmp_path)
    base = small_task()
    text_only = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path), text_only=True)
    assert_same_values(adapter_values(text_only), adapter_values(lm))
    backbone = T5Gemma2Backbone.from_preset(str(tmp_path))  # the base alone
    for own, wanted in zip(backbone.weights, base.backbone.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(own), ops.convert_to_numpy(wanted))
    assert T5Gemma2Seq2SeqLM.from_preset(str(tmp_path), load_weights=False).adapters == {}
    with pytest.raises(ValueError, match="adapters default in files"):
        keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path))
    with pytest.raises(ValueError, match="backbone with adapters is saved by its task"):
        lm.backbone.save_to_preset(tmp_path / "other")
    assert not (tmp_path / "other").exists()

    several = adapted_task()
    several.enable_lora(rank=2, name="second")
    several.set_adapter({"default": 0.5, "second": 2.0})
    several.save_to_preset(tmp_path)
    assert T5Gemma2Seq2SeqLM.from_preset(str(tmp_path)).active_adapter == several.active_adapter
    base.save_to_preset(tmp_path)
    assert list((tmp_path / "adapters").iterdir()) == []
    assert T5Gemma2Seq2SeqLM.from_preset(str(tmp_path)).adapters == {}


@pytest.mark.once
def test_a_merged_task_is_saved_as_a_plain_one(logits, tmp_path):
    lm = adapted_task()
    lm.merge_adapter()
    lm.save_to_preset(tmp_path)
    loaded = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    assert loaded.adapters == {}
    np.testing.assert_allclose(loaded.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-5, atol=1e-5)
    lm.save_adapter(tmp_path / "a.safetensors")  # the adapter itself is kept
    with pytest.raises(ValueError, match="merged adapters.*unmerge_adapter"):
        lm.backbone.load_weights(tmp_path / "model.weights.h5")


@pytest.mark.once
def test_keras_files(lm, tmp_path):
    """A `.keras` file brings its adapters; a `.weights.h5` file goes into the same ones."""
    trained = adapted_task()
    trained.fit(SMALL_ROWS, verbose=0)
    trained.save(tmp_path / "task.keras")
    revived = keras.saving.load_model(tmp_path / "task.keras")
    assert_same_values(adapter_values(revived), adapter_values(trained))
    assert revived.active_adapter == "default" and revived.adapters == trained.adapters
    assert len(revived.trainable_variables) == 12
    revived.fit(SMALL_ROWS, verbose=0)

    lm.save_weights(tmp_path / "a.weights.h5")
    other = adapted_task(seed=1)
    other.load_weights(tmp_path / "a.weights.h5")
    assert_same_values(adapter_values(other), adapter_values(lm))
    with pytest.raises(ValueError, match="adapters '?default'?, and a model with '?none'?"):
        small_task().load_weights(tmp_path / "a.weights.h5")
    small_task().save_weights(tmp_path / "base.weights.h5")
    with pytest.raises(ValueError, match="adapters '?none'?, and a model with '?default'?"):
        other.load_weights(tmp_path / "base.weights.h5")
