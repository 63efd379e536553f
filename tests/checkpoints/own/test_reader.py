"""Presets of this package: sizes and settings are checked before a model is made."""

import json

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.checkpoints.own.reader import OwnCheckpoint, backbone_config, is_own

pytestmark = pytest.mark.once
_OWN = ("config", "config")


def write(directory, keys=(), value=None):
    """A `config.json` with another value at a place."""
    content = {"config": {"config": json.loads(json.dumps(CONFIG.to_dict()))}}
    part = content
    for key in keys[:-1]:
        part = part[key]
    if keys:
        part[keys[-1]] = value
    (directory / "config.json").write_text(json.dumps(content))


def test_sizes_and_settings(tmp_path):
    write(tmp_path)
    assert OwnCheckpoint(tmp_path).config == CONFIG
    assert OwnCheckpoint(tmp_path, text_only=True).config == TEXT_CONFIG
    usual = {"gradient_checkpointing": False, "rounds_activations": False, "trainable": True}
    settings = OwnCheckpoint(tmp_path).settings
    assert {name: settings[name] for name in usual} == usual
    for name, before in usual.items():
        write(tmp_path, ("config", name), not before)
        assert OwnCheckpoint(tmp_path).settings[name] is not before
        write(tmp_path, ("config", name), "yes")  # no answer
        assert OwnCheckpoint(tmp_path).settings[name] is before


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*_OWN, "vocabulary_size"), 10**12, "config.config.vocabulary_size` of .*=1000000000000"),
        ((*_OWN, "vocabulary_size"), "101", "vocabulary_size='101'"),
        ((*_OWN, "vocabulary_size"), True, "vocabulary_size=True"),
        ((*_OWN, "encoder", "hidden_dim"), 1 << 24, "same `hidden_dim`"),
        ((*_OWN, "decoder", "mlp_dim"), 0, "mlp_dim=0"),
        ((*_OWN, "decoder", "layers"), [{}] * 10**5, "must be a list of 1 to 1000 layers"),
        ((*_OWN, "decoder", "layers"), [], "must be a list of 1 to 1000 layers"),
        ((*_OWN, "decoder", "layers", 0, "num_heads"), 1.5, r"layers\[0\].num_heads` .*=1.5"),
        ((*_OWN, "decoder", "layers", 0, "rope_theta"), float("nan"), "rope_theta=nan"),
        ((*_OWN, "decoder", "layers", 0, "window"), -1, "window=-1"),
        ((*_OWN, "decoder", "speed"), 3, "must be an object with hidden_dim, mlp_dim, layers"),
        ((*_OWN, "decoder"), {"hidden_dim": 28}, "must hold mlp_dim, layers, which are missing"),
        (_OWN, [], r"`config.config` of .* must be an object .* Received: \[\]"),
        (("config",), None, "`config` of .*config.json must be an object. Received: None"),
    ],
)
def test_sizes_that_cannot_be(tmp_path, keys, value, message):
    write(tmp_path, keys, value)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(with_name(tmp_path))


def with_name(directory):
    """The directory, whose config then names the class of the backbone."""
    path = directory / "config.json"
    name = "keras_t5gemma2>T5Gemma2Backbone"
    path.write_text(json.dumps({**json.loads(path.read_text()), "registered_name": name}))
    return directory


@pytest.mark.parametrize("value", [True, np.bool_(True), np.float64(101), "101"])
def test_a_described_size_that_is_no_integer_is_refused(value):
    fields = {**CONFIG.to_dict(), "vocabulary_size": value}
    with pytest.raises(ValueError, match="vocabulary_size` of here must be an integer"):
        backbone_config("here", fields)


@keras.saving.register_keras_serializable("tests_of_presets")
class Derived(T5Gemma2Backbone):
    """What a user has made of the backbone."""


def test_presets_of_derived_classes_are_left_to_keras():
    assert is_own("here", {"registered_name": "keras_t5gemma2>T5Gemma2Backbone"})
    assert not is_own("here", {"registered_name": "tests_of_presets>Derived"})
    for name in ("keras_t5gemma2>T5Gemma2Seq2SeqLM", "nobody>Knows", None):
        with pytest.raises(ValueError, match="Received: here, with registered_name="):
            is_own("here", {"registered_name": name})


def test_a_task_is_told_its_settings_and_nothing_that_is_elsewhere(tmp_path):
    checkpoint = OwnCheckpoint(tmp_path)
    assert checkpoint.task(T5Gemma2Seq2SeqLM) == (T5Gemma2Seq2SeqLM, {})
    name = "keras_t5gemma2>T5Gemma2Seq2SeqLM"
    config = {"name": "mine", "backbone": {}, "preprocessor": None, "adapters": {}}
    values = {"registered_name": name, "config": {**config, "cross_attention_cache": "shared"}}
    (tmp_path / "task.json").write_text(json.dumps(values))
    wanted = {"cross_attention_cache": "shared"}
    assert checkpoint.task(T5Gemma2Seq2SeqLM) == (T5Gemma2Seq2SeqLM, wanted)
    values["registered_name"] = "keras_t5gemma2>T5Gemma2Backbone"  # another kind of thing
    (tmp_path / "task.json").write_text(json.dumps(values))
    assert checkpoint.task(T5Gemma2Seq2SeqLM) == (T5Gemma2Seq2SeqLM, {})


def test_parts_that_are_not_there(tmp_path):
    write(tmp_path)
    checkpoint = OwnCheckpoint(tmp_path)
    assert not checkpoint.has_tokenizer and not checkpoint.has_image_converter
    assert checkpoint.preprocessor().arguments == {}
    (tmp_path / "preprocessor.json").write_text("{}")  # of a task without one
    assert checkpoint.preprocessor().arguments == {}
    (tmp_path / "image_converter.json").write_text('{"config": {}}')
    assert checkpoint.has_image_converter
    assert not OwnCheckpoint(tmp_path, text_only=True).has_image_converter
    (tmp_path / "tokenizer.json").write_text('{"config": {}}')
    assert checkpoint.has_tokenizer
    with pytest.raises(FileNotFoundError, match="must hold `assets/tokenizer/vocabulary"):
        checkpoint.tokenizer()
