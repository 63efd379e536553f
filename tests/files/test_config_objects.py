"""Parts of classes that no saved file could bring back: refused before there is such a file."""

import keras
import keras_hub
import keras_hub_models
import pytest
from tasks import ONE_LAYER, TOKENIZER, small_task
from tiny_models import tiny_backbone

from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

pytestmark = pytest.mark.once
PROTO = TOKENIZER.to_tokenizer_json()


# keras-hub looks for classes by backbone, and is not to find these.
class OwnTokenizer(T5Gemma2Tokenizer):
    backbone_cls = None


class OwnConverter(T5Gemma2ImageConverter):
    backbone_cls = None


class OwnPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    backbone_cls = None


class OwnBackbone(T5Gemma2Backbone):
    pass


@keras.saving.register_keras_serializable("test_foreign_parts")
class RegisteredTokenizer(T5Gemma2Tokenizer):
    backbone_cls = None


@keras.saving.register_keras_serializable("test_foreign_parts")
class RegisteredPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    backbone_cls = None


@pytest.fixture(scope="module")
def backbone():
    return small_task().backbone


def test_a_tokenizer_of_keras_hub_is_refused_where_it_is_given():
    tokenizer = keras_hub.models.T5Gemma2Tokenizer(str(keras_hub_models.SPM))
    message = r"`tokenizer` must be a T5Gemma2Tokenizer of this package.*\(of type keras_hub\."
    with pytest.raises(TypeError, match=message):
        T5Gemma2Seq2SeqLMPreprocessor(tokenizer)
    # As the message of a missing attribute would have come much later.
    ours = T5Gemma2Seq2SeqLMPreprocessor(T5Gemma2Tokenizer(tokenizer.proto))
    assert ours.generate_preprocess("a b")["encoder_token_ids"].ndim == 1
    for value in (None, "tokenizer.json"):
        with pytest.raises(TypeError, match="`tokenizer` must be a T5Gemma2Tokenizer"):
            T5Gemma2Seq2SeqLMPreprocessor(value)


def test_an_image_converter_of_keras_hub_is_refused_where_it_is_given():
    converter = keras_hub.layers.ImageConverter(image_size=(4, 4))
    with pytest.raises(TypeError, match="`image_converter` must be a T5Gemma2ImageConverter"):
        T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, converter)


def _preprocessors():
    return {
        "OwnTokenizer": T5Gemma2Seq2SeqLMPreprocessor(OwnTokenizer(PROTO)),
        "OwnConverter": T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, OwnConverter((4, 4))),
        "OwnPreprocessor": OwnPreprocessor(TOKENIZER),
    }


@pytest.mark.parametrize("name", ["OwnTokenizer", "OwnConverter", "OwnPreprocessor"])
def test_a_part_of_a_class_that_is_not_registered_is_not_saved(backbone, tmp_path, name):
    """Loading would refuse it, after the training that it was saved for."""
    preprocessor = _preprocessors()[name]
    saves = [lambda: preprocessor.save_to_preset(tmp_path / "preprocessor")]
    if name != "OwnConverter":  # the backbone has no vision tower
        lm = T5Gemma2Seq2SeqLM(backbone, preprocessor)
        saves += [
            lambda: lm.save_to_preset(tmp_path / "task"),
            lambda: lm.save(tmp_path / "task.keras"),
        ]
    for save in saves:
        with pytest.raises(ValueError, match=f"of a registered class.* class {name}. Put"):
            save()
    assert not list(tmp_path.iterdir())


def test_a_layer_of_a_class_that_is_not_registered_is_not_saved(tmp_path):
    for layer in (OwnTokenizer(PROTO), OwnConverter((4, 4))):
        with pytest.raises(ValueError, match=f"of a registered class.*{type(layer).__name__}"):
            layer.save_to_preset(tmp_path / "layer")
    assert not list(tmp_path.iterdir())


def test_a_backbone_of_a_class_that_is_not_registered_is_not_saved(tmp_path):
    lm = T5Gemma2Seq2SeqLM(OwnBackbone(ONE_LAYER))
    for save in (
        lambda: lm.backbone.save_to_preset(tmp_path / "backbone"),
        lambda: lm.save_to_preset(tmp_path / "task"),
        lambda: lm.save(tmp_path / "task.keras"),
    ):
        with pytest.raises(ValueError, match="of a registered class.* class OwnBackbone"):
            save()
    assert not list(tmp_path.iterdir())


def test_what_needs_no_file_works_with_a_class_that_is_not_registered():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(ONE_LAYER), OwnPreprocessor(OwnTokenizer(PROTO)))
    lm.compile(sampler="greedy")
    assert isinstance(lm.generate("the cat", max_new_tokens=1), str)


def test_registered_classes_are_saved_and_come_back(backbone, tmp_path):
    preprocessor = RegisteredPreprocessor(RegisteredTokenizer(PROTO), None, 7, 6)
    lm = T5Gemma2Seq2SeqLM(backbone, preprocessor)
    lm.save_to_preset(tmp_path / "task")
    lm.save(tmp_path / "task.keras")
    for loaded in (
        T5Gemma2Seq2SeqLM.from_preset(tmp_path / "task"),
        keras.saving.load_model(tmp_path / "task.keras"),
    ):
        assert type(loaded.preprocessor) is RegisteredPreprocessor
        assert type(loaded.preprocessor.tokenizer) is RegisteredTokenizer
        assert loaded.preprocessor.encoder_sequence_length == 7
        assert loaded.preprocessor.tokenizer("the cat") == TOKENIZER("the cat")
