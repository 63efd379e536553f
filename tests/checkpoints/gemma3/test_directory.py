"""Gemma 3 models that see images, presets of keras-hub, and two models in one."""

import json
import pathlib

import numpy as np
import pytest
import torch
from checkpoints import load_gemma3
from gemma3_presets import features, hub_backbone
from keras import ops
from reference_gemma3 import (
    masked_encoder_logits,
    reference_logits,
    tiny_gemma3,
    tiny_gemma3_with_vision,
    write_gguf,
)
from tiny_vocabulary import tiny_tokenizer_json

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

SLIDING, FULL = "sliding_attention", "full_attention"
# Of the size that only the text of the tiny tokenizer needs.
VOCABULARY = 520  # as many as the tokenizer has, or more


@pytest.fixture
def images(rng):
    return rng.uniform(-1, 1, size=(3, 28, 28, 3)).astype("float32")


# Models that see images -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sighted():
    return tiny_gemma3_with_vision(seed=3, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def sighted_directory(sighted, tmp_path_factory):
    path = tmp_path_factory.mktemp("sighted")
    sighted.save_pretrained(path)
    tiny_tokenizer_json(path / "tokenizer.json")
    return path


@pytest.mark.parametrize(
    "prefixes", [None, ("language_model.model.", "vision_tower.vision_model.")]
)
def test_vision_tower_and_projector_come_along(
    prefixes, sighted, sighted_directory, images, tmp_path
):
    path = sighted_directory
    if prefixes:
        path = _as_older_files(sighted_directory, tmp_path)
    backbone = load_gemma3(path)
    vision = backbone.config.vision
    assert (vision.image_size, vision.tokens_per_image, vision.num_layers) == (28, 4, 1)
    assert (backbone.config.end_of_image_token_id, backbone.config.image_token_id) == (6, 7)
    assert not backbone.vision.tower.trainable_weights
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        wanted = sighted.model.get_image_features(pixels).pooler_output.numpy()
    np.testing.assert_allclose(features(backbone, images), wanted, rtol=1e-5, atol=1e-5)


def _as_older_files(directory, target):
    """The same with the names of the published files."""
    from safetensors.torch import load_file, save_file

    found = {}
    for name, value in load_file(directory / "model.safetensors").items():
        name = name.removeprefix("model.")
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
        found[name.replace("language_model.model.", "language_model.")] = value
    assert any(name.startswith("vision_tower.vision_model.post_layernorm") for name in found)
    found = {
        name.replace("language_model.", "language_model.model."): value
        for name, value in found.items()
    }
    save_file(found, target / "model.safetensors")
    (target / "config.json").write_text((directory / "config.json").read_text())
    return target


@pytest.mark.once
def test_task_of_a_model_that_sees_images(sighted_directory, images):
    lm = T5Gemma2Seq2SeqLM.from_gemma3(sighted_directory)
    preprocessor = lm.preprocessor
    assert preprocessor.tokens_per_image == 4
    assert preprocessor.image_converter.image_size == (28, 28)
    assert lm.backbone.config.image_token_id == preprocessor.tokenizer.image_token_id == 7
    lm.compile(sampler="greedy")
    pixels = ((images + 1) * 127).astype("uint8")
    prompt = {"encoder_text": "<start_of_image>the cat", "images": pixels[0]}
    other = {**prompt, "images": pixels[1]}
    inputs = [preprocessor.generate_preprocess(x, sequence_length=3) for x in (prompt, other)]
    batch = {name: np.stack([x[name] for x in inputs]) for name in inputs[0]}
    batch = {name: value[:, :16] if value.ndim == 2 else value for name, value in batch.items()}
    encoded = lm.backbone.predict_on_batch(lm.backbone.complete(batch))["encoder_sequence_output"]
    one, two = ops.convert_to_numpy(encoded)
    assert np.abs(one - two).max() > 1e-2


def test_image_token_is_the_tokenizer_s(sighted_directory, tmp_path):
    """Gemma 3 puts it behind the vocabulary, T5Gemma 2 inside."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((sighted_directory / name).read_bytes())
    values = json.loads((sighted_directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "image_token_index": 519}))
    assert load_gemma3(tmp_path).config.image_token_id == 519
    assert T5Gemma2Seq2SeqLM.from_gemma3(tmp_path).backbone.config.image_token_id == 7


def test_text_only_leaves_the_tower_out(sighted_directory):
    lm = T5Gemma2Seq2SeqLM.from_gemma3(sighted_directory, text_only=True)
    assert lm.backbone.vision is None and lm.preprocessor.image_converter is None


@pytest.fixture(scope="module")
def hub_preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub")
    hub_backbone(num_layers=1).save_to_preset(path)
    return path


# Two models -----------------------------------------------------------------------------------


@pytest.mark.once
def test_stacks_of_different_sizes(rng, tmp_path):
    """A deep encoder of a preset, a shallow decoder of a directory with other heads."""
    (tmp_path / "encoder").mkdir()
    (tmp_path / "decoder").mkdir()
    deep = hub_backbone(num_layers=6)
    deep.save_to_preset(tmp_path / "encoder")
    shallow = tiny_gemma3(
        seed=5, num_hidden_layers=2, layer_types=[SLIDING, FULL], final_logit_softcapping=2.0
    )
    shallow.save_pretrained(tmp_path / "decoder")
    backbone = load_gemma3(tmp_path / "encoder", tmp_path / "decoder")
    config = backbone.config
    assert [layer.window for layer in config.encoder.layers] == [6] * 5 + [None]
    assert [layer.head_dim for layer in config.decoder.layers] == [32, 32]
    assert (config.encoder.mlp_dim, config.decoder.mlp_dim) == (44, 96)
    assert {layer.rope_factor for layer in config.encoder.layers} == {1.0, 8.0}
    assert {layer.rope_factor for layer in config.decoder.layers} == {1.0}
    ids = rng.integers(0, 101, size=(2, 13)).astype("int32")
    wanted = reference_logits(shallow, ids)
    np.testing.assert_allclose(masked_encoder_logits(backbone, ids), wanted, rtol=0, atol=1e-5)
    norm = ops.convert_to_numpy(backbone.encoder.norm.scale)
    np.testing.assert_array_equal(norm, ops.convert_to_numpy(deep.layer_norm.scale))


def test_tower_comes_from_the_encoder(sighted_directory, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", tiny_gemma3(vocab_size=VOCABULARY))
    one = load_gemma3(sighted_directory, path)
    other = load_gemma3(path, sighted_directory)
    assert one.config.vision is not None and other.config.vision is None


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 28}, r"encoder: hidden_dim=32, vocabulary_size=101 \(.*\); decoder: hid"),
        ({"vocab_size": 103}, r"decoder: hidden_dim=32, vocabulary_size=103 \(.*other\)"),
    ],
)
def test_models_that_do_not_fit_are_an_error(changes, message, hub_preset, tmp_path):
    path = pathlib.Path(tmp_path, "other")
    tiny_gemma3(num_hidden_layers=1, layer_types=[FULL], **changes).save_pretrained(path)
    with pytest.raises(ValueError, match=message):
        load_gemma3(hub_preset, path)
