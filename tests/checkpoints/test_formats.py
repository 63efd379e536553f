"""Presets saved and loaded, published checkpoints loaded, and what is said when they cannot be."""

import json
import pathlib

import huggingface_hub
import keras
import numpy as np
import pytest
from keras import ops
from reference_models import save_reference, tiny_reference
from tasks import TOKENIZER, tiny_task
from tiny_models import randomize, token_inputs
from tiny_vocabulary import tiny_tokenizer_json

import keras_t5gemma2
from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)
from keras_t5gemma2.checkpoints import formats

PROMPT = {"encoder_text": "the cat is", "decoder_text": "a"}

# What is downloaded beside the config.
FILES = ("*.json", "tokenizer.model", "chat_template.jinja")


@pytest.fixture(scope="module")
def lm():
    return tiny_task()


@pytest.fixture(scope="module")
def preset(lm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("preset")
    lm.save_to_preset(directory)
    return str(directory)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A directory as the reference publishes it: config, weights, tokenizer, processor."""
    directory = tmp_path_factory.mktemp("checkpoint")
    reference = tiny_reference(text={"vocab_size": TOKENIZER.vocabulary_size()})
    save_reference(reference, directory)
    tiny_tokenizer_json(directory / "tokenizer.json")
    processor = {
        "image_processor": {"size": {"height": 28, "width": 28}, "resample": 2},
        "image_seq_length": 4,
    }
    (directory / "processor_config.json").write_text(json.dumps(processor))
    return str(directory)


def logits_of(lm, images=1):
    """From the compiled backbone: on JAX, the model op by op takes a minute."""
    inputs = token_inputs(np.random.default_rng(0), (13, 8), (3, 9), images=images)
    outputs = lm.backbone.predict_on_batch(lm.backbone.complete(inputs))
    hidden = ops.convert_to_tensor(outputs["decoder_sequence_output"])
    return ops.convert_to_numpy(ops.cast(lm.logits(hidden), "float32"))


def weights_of(lm):
    return {weight.path: ops.convert_to_numpy(weight) for weight in lm.weights}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)


# Presets of ours


@pytest.mark.once
def test_a_reloaded_preset_is_the_same(lm, preset):
    loaded = T5Gemma2Seq2SeqLM.from_preset(preset)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(lm))
    assert loaded.backbone.config == lm.backbone.config
    ours, theirs = (dict(task.preprocessor.get_config()) for task in (lm, loaded))
    for config in (ours, theirs):
        for part in ("name", "tokenizer", "image_converter"):
            config.pop(part)
    assert ours == theirs
    assert loaded.preprocessor.encoder_sequence_length == 40
    loaded.compile(sampler="greedy")
    assert loaded.generate(PROMPT, max_new_tokens=4) == lm.generate(PROMPT, max_new_tokens=4)


def test_each_part_loads_by_itself(lm, preset):
    backbone = T5Gemma2Backbone.from_preset(preset, dtype="bfloat16")
    assert {weight.dtype for weight in backbone.weights} == {"bfloat16"}
    tokenizer = T5Gemma2Tokenizer.from_preset(preset)
    assert tokenizer("the cat") == lm.preprocessor.tokenizer("the cat")
    assert T5Gemma2ImageConverter.from_preset(preset).image_size == (28, 28)
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor.from_preset(preset, decoder_sequence_length=7)
    assert preprocessor.decoder_sequence_length == 7


@pytest.mark.once
def test_a_preset_without_its_vision_tower(lm, preset):
    loaded = T5Gemma2Seq2SeqLM.from_preset(preset, text_only=True)
    assert loaded.backbone.vision is None and loaded.preprocessor.image_converter is None
    np.testing.assert_allclose(logits_of(loaded, 0), logits_of(lm, 0), rtol=1e-5, atol=1e-5)


def test_without_weights(lm, preset):
    loaded = T5Gemma2Seq2SeqLM.from_preset(preset, load_weights=False)
    weights, others = weights_of(loaded), weights_of(lm)
    assert weights.keys() == others.keys()
    path = "encoder/layer_0/mlp/up/kernel"
    assert np.abs(weights[path] - others[path]).max() > 0.1


@pytest.mark.once
def test_a_failed_save_leaves_the_old_preset(lm, preset, monkeypatch):
    broken = tiny_task()
    randomize(broken.backbone, seed=1)

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(broken.preprocessor.tokenizer, "save_assets", fail)
    with pytest.raises(OSError, match="no space left"):
        broken.save_to_preset(preset)
    assert_same_weights(T5Gemma2Seq2SeqLM.from_preset(preset), lm)


def test_keras_file_and_back(lm, tmp_path):
    lm.save(tmp_path / "task.keras")
    revived = keras.saving.load_model(tmp_path / "task.keras")
    assert revived.backbone.config == lm.backbone.config
    assert_same_weights(revived, lm)
    assert revived.preprocessor.tokenizer("the cat") == TOKENIZER("the cat")


# Published checkpoints


@pytest.mark.once
def test_a_checkpoint_directory(checkpoint):
    lm = T5Gemma2Seq2SeqLM.from_preset(checkpoint)
    assert lm.preprocessor.tokens_per_image == 4
    assert lm.preprocessor.image_converter.image_size == (28, 28)
    image = np.full((9, 8, 3), 200, "uint8")
    inputs = {"encoder_text": "<start_of_image> the cat", "images": image}
    lm.compile(sampler="greedy")
    assert isinstance(lm.generate(inputs, max_new_tokens=3), str)
    for cls in (T5Gemma2Tokenizer, T5Gemma2ImageConverter, T5Gemma2Seq2SeqLMPreprocessor):
        assert isinstance(cls.from_preset(checkpoint), cls)


def test_a_checkpoint_without_its_vision_tower(checkpoint):
    whole = T5Gemma2Seq2SeqLM.from_preset(checkpoint)
    lm = T5Gemma2Seq2SeqLM.from_preset(checkpoint, text_only=True)
    assert lm.backbone.vision is None and lm.preprocessor.image_converter is None
    weights, others = weights_of(lm), weights_of(whole)
    assert set(others) - set(weights) == {path for path in others if path.startswith("vision/")}
    for path, value in weights.items():
        np.testing.assert_array_equal(value, others[path], err_msg=path)


def test_dtype_reaches_every_part_of_a_checkpoint(checkpoint):
    lm = T5Gemma2Seq2SeqLM.from_preset(checkpoint, dtype="bfloat16")
    assert {weight.dtype for weight in lm.weights} == {"bfloat16"}
    assert lm.dtype_policy.name == "bfloat16"


def test_a_checkpoint_without_tokenizer_works_on_ids(tmp_path):
    save_reference(tiny_reference(), tmp_path)
    with pytest.warns(UserWarning, match="no preprocessor"):
        lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    assert lm.preprocessor is None
    with pytest.raises(FileNotFoundError, match="tokenizer.json or tokenizer.model"):
        T5Gemma2Tokenizer.from_preset(tmp_path)


def test_an_image_processor_of_another_size(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes(_bytes(checkpoint, "config.json"))
    (tmp_path / "processor_config.json").write_text('{"size": {"height": 14, "width": 14}}')
    with pytest.raises(ValueError, match=r"size=\(14, 14\)"):
        T5Gemma2ImageConverter.from_preset(tmp_path)


def _bytes(directory, name):
    with open(f"{directory}/{name}", "rb") as file:
        return file.read()


# Names and handles


@pytest.mark.once
def test_a_registered_name_is_its_handle(checkpoint, monkeypatch):
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return f"{checkpoint}/{name}"

    def snapshot(repository, allow_patterns):
        asked.append((repository, *allow_patterns))
        return checkpoint

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_1b_1b", load_weights=False)
    assert lm.preprocessor is not None
    repository = "google/t5gemma-2-1b-1b"
    assert asked == [(repository, "config.json"), (repository, *FILES)]
    T5Gemma2Backbone.from_preset("hf://somebody/tuned")
    assert asked[-1] == ("somebody/tuned", *FILES, "*.safetensors")


@pytest.mark.parametrize(
    ("preset", "error", "message"),
    [
        ("t5gemma2_9b_9b", FileNotFoundError, "'t5gemma2_9b_9b'. The names are: t5gemma2_tiny"),
        ("hf://no-slash/but/three", ValueError, "hf://no-slash/but/three"),
    ],
)
def test_what_is_no_preset(preset, error, message):
    with pytest.raises(error, match=message):
        T5Gemma2Seq2SeqLM.from_preset(preset)


def test_another_model_s_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(ValueError, match="gemma3"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)


def test_names_give_handles():
    published = dict(keras_t5gemma2.presets)
    embedded = published.pop("t5gemma2_tiny")
    assert (pathlib.Path(embedded["directory"]) / "config.json").exists()
    second = {name: preset for name, preset in published.items() if name.startswith("t5gemma2_")}
    assert len(second) == 3 and len(published) == 35
    for name, preset in second.items():
        size = name.split("_")[1]
        assert preset["hf_handle"] == f"hf://google/t5gemma-2-{size}-{size}"
        assert preset["kaggle_handle"] == f"kaggle://keras/t5gemma-2/keras/{name}/2"
    for name in published.keys() - second.keys():
        handle = name.removeprefix("t5gemma_").replace("_", "-")
        assert published[name]["hf_handle"] == f"hf://google/t5gemma-{handle}"


@pytest.mark.once
@pytest.mark.parametrize("option", [{"text_only": True}, {"quantize": "int8"}, {"rope_factor": 0}])
def test_what_keras_hub_cannot_do_is_refused(option):
    (name, value), *_ = option.items()
    with pytest.raises(ValueError, match=f"`{name}` needs a preset of a class.*{name}={value!r}, "):
        formats.check_only_keras("gemma3_270m", None, **option)
    formats.check_only_keras("gemma3_270m", None, text_only=False, quantize=None)
