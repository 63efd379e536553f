"""What every reader of a checkpoint has, and which classes a file may name."""

import json
import pathlib

import keras
import keras_hub
import pytest
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.checkpoint import Checkpoint, SavedLayer, registered_class

pytestmark = pytest.mark.once


@keras.saving.register_keras_serializable("tests_of_checkpoints")
class Derived(T5Gemma2Backbone):
    """What a user has made of the backbone."""


@keras.saving.register_keras_serializable("tests_of_checkpoints")
def function():
    """No class."""


def test_a_registered_class_is_found_where_it_is_of_the_wanted_kind():
    own = "keras_t5gemma2>T5Gemma2Backbone"
    assert registered_class(own, T5Gemma2Backbone) is T5Gemma2Backbone
    assert registered_class(own, keras_hub.models.Backbone) is T5Gemma2Backbone
    assert registered_class("tests_of_checkpoints>Derived", T5Gemma2Backbone) is Derived


@pytest.mark.parametrize(
    "name",
    [
        *("keras_hub>T5Gemma2Backbone", "keras_t5gemma2>T5Gemma2Seq2SeqLM"),
        *("tests_of_checkpoints>function", "nobody>Knows", "", None, 3, ["a"], {}),
    ],
)
def test_whatever_else_a_file_names_is_no_class(name):
    assert registered_class(name, T5Gemma2Backbone) is None


def test_what_a_reader_does_not_say_is_usual(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.origin == tmp_path / "config.json"
    assert checkpoint.task(T5Gemma2Backbone) == (T5Gemma2Backbone, {})
    assert checkpoint.has_tokenizer and checkpoint.settings == {}
    assert SavedLayer({"size": 3}) == ({"size": 3}, None, None, None)


def test_the_source_is_that_of_the_name_or_of_the_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    assert Checkpoint(tmp_path).source == "unknown"
    assert Checkpoint(tmp_path, preset="hf://somebody/tuned").source == "somebody/tuned"
    path.write_text(json.dumps({"_name_or_path": "google/t5gemma-2-1b-1b"}))
    assert Checkpoint(tmp_path).source == "google/t5gemma-2-1b-1b"


def test_an_image_converter_goes_with_a_vision_tower():
    class Reader(Checkpoint):
        config = TEXT_CONFIG

    reader = Reader(pathlib.Path("anywhere"))
    assert not reader.has_image_converter
    Reader.config = CONFIG
    assert reader.has_image_converter
