"""Arguments and names that are not there: refused before any file is read."""

import huggingface_hub
import keras
import pytest
from tasks import TOKENIZER
from tiny_models import SMALL_CONFIG

import keras_t5gemma2
from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2DenoisingPreprocessor,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

pytestmark = pytest.mark.once
CLASSES = [
    T5Gemma2Seq2SeqLM,
    T5Gemma2Backbone,
    T5Gemma2Tokenizer,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2DenoisingPreprocessor,
]


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("nothing must be read before the arguments are known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("preset", ["hf://somebody/model", "t5gemma2_270m_270m", "nowhere"])
def test_every_class_refuses_unknown_arguments_before_it_looks_for_files(cls, preset):
    message = rf"`{cls.__name__}.from_preset` has no argument `revision`. Download it by"
    with pytest.raises(TypeError, match=message):
        cls.from_preset(preset, revision="main")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"torch_dtype": "bfloat16"}, r"no argument `torch_dtype`. Did you mean `dtype`\?"),
        ({"load_in_8bit": True}, r'Did you mean `quantize="int8"`\?'),
        ({"load_in_4bit": True}, r'Did you mean `quantize="int4"`\?'),
        ({"quantise": "int4"}, r"Did you mean `quantize`\?"),
        ({"textonly": True}, r"Did you mean `text_only`\?"),
        ({"load_weight": True}, r"Did you mean `load_weights`\?"),
        ({"cachedtype": "int8"}, r"Did you mean `cache_dtype`\?"),
        ({"device_map": "auto"}, "weights go to the backend's device"),
        ({"trust_remote_code": True}, "no code of a preset is ever run"),
        ({"token": "x"}, "hf auth login"),
        ({"cache_dir": "x"}, "HF_HUB_CACHE"),
        ({"max_new_tokens": 3}, "Give it to `generate`"),
        ({"backbone": 3}, "no argument `backbone`"),
        ({"x": 1, "textonly": 1}, r"no arguments `x`, `textonly`. Did you mean `text_only`\?"),
        ({"x" * 900: 1}, r"`xxx[x.]*xxx`"),
    ],
    ids=lambda value: next(iter(value))[:20] if isinstance(value, dict) else "",
)
def test_the_message_says_what_is_meant(arguments, message):
    for load in (T5Gemma2Seq2SeqLM.from_preset, T5Gemma2Seq2SeqLM.from_gemma3):
        if load == T5Gemma2Seq2SeqLM.from_gemma3 and "load_weight" in arguments:
            continue
        with pytest.raises(TypeError, match=message) as caught:
            load("hf://somebody/model", **arguments)
        assert len(str(caught.value)) < 800 and "It takes" in str(caught.value)


def test_a_remedy_is_an_argument_of_the_class():
    with pytest.raises(TypeError, match="`torch_dtype`. Did you mean `dtype`"):
        T5Gemma2Backbone.from_preset("hf://somebody/model", torch_dtype="bfloat16")
    with pytest.raises(TypeError, match="no argument `load_in_8bit`. It takes"):
        T5Gemma2Tokenizer.from_preset("hf://somebody/model", load_in_8bit=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda **a: T5Gemma2Backbone(SMALL_CONFIG, **a), "`T5Gemma2Backbone` has no"),
        (lambda **a: T5Gemma2Seq2SeqLM(None, **a), "`T5Gemma2Seq2SeqLM` has no"),
        (lambda **a: T5Gemma2Tokenizer(**a), "`T5Gemma2Tokenizer` has no"),
        (lambda **a: T5Gemma2ImageConverter(**a), "`T5Gemma2ImageConverter` has no"),
        (lambda **a: T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, **a), "Preprocessor` has no"),
        (lambda **a: T5Gemma2DenoisingPreprocessor(TOKENIZER, **a), "DenoisingPreprocessor` has"),
    ],
)
@pytest.mark.parametrize("name", ["quantise", "scales", "add_both"])
def test_constructors_refuse_unknown_arguments(make, message, name):
    with pytest.raises(TypeError, match=f"{message}.*`{name}`"):
        make(**{name: 1})


def test_arguments_of_a_derived_class_are_known():
    class Derived(T5Gemma2ImageConverter):
        def __init__(self, brightness=1.0, **kwargs):
            super().__init__(**kwargs)
            self.brightness = brightness

    assert Derived(brightness=2.0, image_size=3, name="x").brightness == 2.0
    with pytest.raises(TypeError, match=r"`Derived` has no argument `bright`. Did you mean `brigh"):
        Derived(bright=2.0)
    found = Derived.from_preset
    with pytest.raises(TypeError, match="no argument `dark`.*brightness"):
        found("hf://somebody/model", dark=1.0)


def test_what_layers_of_keras_take_is_taken():
    converter = T5Gemma2ImageConverter(name="x", trainable=False, dtype="float32")
    assert converter.name == "x"
    assert T5Gemma2Tokenizer.from_preset("t5gemma2_tiny", name="y").name == "y"
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", compile=False, cache_dtype="int8", name="z")
    assert (lm.name, lm.cache_dtype) == ("z", "int8")
    assert keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(lm.preprocessor)
    ).get_config() == (lm.preprocessor.get_config())


@pytest.mark.parametrize(
    ("preset", "meant"),
    [
        ("google/t5gemma-2-270m-270m", "hf://google/t5gemma-2-270m-270m"),
        ("https://huggingface.co/me/french", "hf://me/french"),
        ("hf:me/french", "hf://me/french"),
        ("t5gemma2_9b_9b", "t5gemma2_4b_4b|t5gemma2_1b_1b"),
        ("t5gemma2-tiny", "t5gemma2_tiny"),
        ("T5Gemma2_270m", "t5gemma2_270m_270m"),
        ("t5gemma-2-1b-1b", "hf://google/t5gemma-2-1b-1b"),
    ],
)
@pytest.mark.parametrize("cls", CLASSES[:3], ids=lambda cls: cls.__name__)
def test_an_unknown_name_says_the_nearest(cls, preset, meant):
    with pytest.raises(FileNotFoundError, match=rf"Did you mean ({meant})\? Received: preset='"):
        cls.from_preset(preset)


def test_a_name_like_none_of_ours():
    with pytest.raises(FileNotFoundError, match="directory. Received: preset='/no/where/at/all'"):
        T5Gemma2Seq2SeqLM.from_preset("/no/where/at/all")
    with pytest.raises(FileNotFoundError, match=r"does not exist.*snapshot_download"):
        T5Gemma2Seq2SeqLM.from_gemma3("google/gemma-3-270m")
    assert "t5gemma2_tiny" in keras_t5gemma2.presets


@pytest.mark.parametrize("value", [1, "yes", None, [True]])
def test_flags_are_true_or_false(value):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", load_weights=False)
    converter = lm.preprocessor.image_converter
    with pytest.raises(TypeError, match="`pan_and_scan` must be True or False. Received: pan"):
        type(converter)(converter.image_size, pan_and_scan=value)
    with pytest.raises(TypeError, match="`truncate` must be True or False. Received: truncate="):
        type(lm.preprocessor)(lm.preprocessor.tokenizer, truncate=value)
