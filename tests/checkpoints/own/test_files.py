"""What a preset directory says beside what keras-hub writes: imports, tasks, adapters."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import keras_hub
import numpy as np
import pytest
from tasks import small_task, tiny_task

import keras_t5gemma2
from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.checkpoints.own.files import metrics_of, preset_card

pytestmark = pytest.mark.once


_WITHOUT_IMPORT = """
import sys
import keras_hub
for cls in (keras_hub.models.Seq2SeqLM, keras_hub.models.Backbone, keras_hub.models.Tokenizer):
    try:
        cls.from_preset(sys.argv[1])
    except ValueError as error:
        assert "import keras_t5gemma2>T5Gemma2Backbone" in str(error), error
    else:
        raise AssertionError(cls)
import keras_t5gemma2
lm = keras_hub.models.Seq2SeqLM.from_preset(sys.argv[1])
assert type(lm) is keras_t5gemma2.T5Gemma2Seq2SeqLM
"""


@pytest.mark.slow
def test_keras_hub_says_what_to_import(tmp_path):
    small_task().save_to_preset(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _WITHOUT_IMPORT, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_metadata_names_the_task_of_keras_hub(tmp_path):
    small_task().save_to_preset(tmp_path)
    embedded = pathlib.Path(keras_t5gemma2.presets["t5gemma2_tiny"]["directory"])
    of_language_models, *of_heads = json.loads((tmp_path / "metadata.json").read_text())["tasks"]
    assert of_language_models == "Seq2SeqLM" and of_heads == ["TextClassifier", "TextEmbedder"]
    assert json.loads((embedded / "metadata.json").read_text())["tasks"] == ["Seq2SeqLM"]


class Derived(T5Gemma2Seq2SeqLM):
    """Once a user has registered it, keras-hub may take it for any preset of the backbone."""


def test_adapters_are_never_lost(tmp_path, monkeypatch):
    lm = small_task()
    lm.enable_lora(2, target=["query"], name="french")
    lm.save_to_preset(tmp_path)
    for found in (T5Gemma2Seq2SeqLM.from_preset(tmp_path), Derived.from_preset(tmp_path)):
        assert list(found.adapters) == ["french"]
    assert T5Gemma2Backbone.from_preset(tmp_path) is not None
    message = r"the adapters french in files of their own.*T5Gemma2Seq2SeqLM.from_preset"
    loader = keras_hub.models.Seq2SeqLM.from_preset
    others = set(keras.saving.get_custom_objects().values()) - {T5Gemma2Seq2SeqLM}
    for cls in (Derived, T5Gemma2Seq2SeqLM):
        # Whichever of the classes keras-hub finds first.
        objects = {"a": cls, **{str(i): other for i, other in enumerate(others - {cls})}}
        with monkeypatch.context() as patch:
            named = {keras.saving.get_registered_name(x): x for x in [*others, T5Gemma2Seq2SeqLM]}
            patch.setattr(keras.saving, "get_custom_objects", lambda objects=objects: objects)
            patch.setattr(keras.saving, "get_registered_object", _finder(named))
            with pytest.raises((ValueError, TypeError), match=message):
                loader(str(tmp_path))
    with pytest.raises((ValueError, TypeError), match=message):
        keras_hub.models.Backbone.from_preset(str(tmp_path))


def _finder(named):
    return lambda name, *args: named.get(name.removeprefix("import "))


def test_options_that_keras_hub_does_not_know_are_refused(tmp_path):
    small_task().save_to_preset(tmp_path)
    for options in ({"text_only": True}, {"quantize": "int8"}, {"embeddings": "mean"}):
        message = f"no argument `{next(iter(options))}`, which is one of"
        with pytest.raises(TypeError, match=message):
            keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path), **options)
        with pytest.raises(TypeError, match=message):
            keras_hub.models.Backbone.from_preset(str(tmp_path), **options)


def test_metrics_are_those_of_the_last_epoch():
    assert metrics_of(object()) == metrics_of(types.SimpleNamespace(history=None)) == {}
    history = {"loss": [3.0, np.float32(0.5)], "accuracy": [1], "none": []}
    task = types.SimpleNamespace(history=types.SimpleNamespace(history=history))
    assert metrics_of(task) == {"loss": 0.5, "accuracy": 1.0}
    assert all(type(value) is float for value in metrics_of(task).values())


@pytest.mark.parametrize("vision", [False, True], ids=["text", "vision"])
def test_a_card_tells_what_a_model_is_and_how_it_is_loaded(vision):
    lm = tiny_task(vision)
    card = preset_card("hf://me/mine", lm, {"loss": 0.5})
    assert (card.title, card.metrics, card.source) == ("mine", {"loss": 0.5}, None)
    line = 'lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("hf://me/mine")'
    assert card.usage == f"import keras_t5gemma2\n{line}"
    assert ("text and images in" in card.what) == vision
    assert card.pipeline == ("image-text-to-text" if vision else "text-generation")
    card = preset_card("mine", lm.backbone)
    assert 'backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("mine")' in card.usage
    assert "The backbone of a T5Gemma 2" in card.what and card.metrics == {}


def test_a_class_of_the_users_is_imported_from_where_it_is():
    task = small_task()
    task.__class__ = Derived
    usage = preset_card("mine", task).usage
    assert usage.splitlines() == [
        f"from {__name__} import Derived",
        'lm = Derived.from_preset("mine")',
    ]
