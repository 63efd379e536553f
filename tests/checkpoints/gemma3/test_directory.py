"""Gemma 3 models that see images, presets of keras-hub, and two models in one."""

import io
import json
import pathlib

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import torch
from checkpoints import load_gemma3
from keras import ops
from reference_gemma3 import (
    masked_encoder_logits,
    reference_logits,
    tiny_gemma3,
    tiny_gemma3_with_vision,
    write_gguf,
)
from tiny_models import randomize
from tiny_vocabulary import tiny_tokenizer_json

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

SLIDING, FULL = "sliding_attention", "full_attention"
# Of the size that only the text of the tiny tokenizer needs.
VOCABULARY = 520  # as many as the tokenizer has, or more
HUB = {
    **{"vocabulary_size": 101, "image_size": 28, "num_layers": 7, "num_query_heads": 4},
    **{"num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 44, "head_dim": 16},
    **{"use_post_ffw_norm": True, "use_post_attention_norm": True, "sliding_window_size": 6},
    **{"use_sliding_window_attention": True, "global_rope_scaling_factor": 8.0},
}
HUB_VISION = {
    **{"image_size": 28, "patch_size": 7, "num_heads": 3, "hidden_dim": 24, "num_layers": 2},
    **{"intermediate_dim": 36, "output_dim": 32, "pool_size": 2},
}


def features(backbone, images):
    """What the encoder gets for images, (images, tokens, width)."""
    size = images.shape[1]
    # As a model of its own each backend compiles it in its way.
    inputs = keras.Input((size, size, 3))
    model = keras.Model(inputs, backbone.vision.projector(backbone.vision.tower(inputs)))
    return ops.convert_to_numpy(model.predict_on_batch(images))


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


# Presets of keras-hub -------------------------------------------------------------------------


def hub_backbone(vision=False, seed=0, **changes):
    encoder = keras_hub.models.Gemma3VisionEncoder(**HUB_VISION) if vision else None
    backbone = keras_hub.models.Gemma3Backbone(vision_encoder=encoder, **{**HUB, **changes})
    randomize(backbone, seed)
    return backbone


def hub_logits(backbone, ids):
    hidden = backbone.predict_on_batch({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = backbone.token_embedding(ops.convert_to_tensor(hidden), reverse=True)
    return ops.convert_to_numpy(logits)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"global_rope_scaling_factor": 8.0, "final_logit_soft_cap": 3.0},
            marks=pytest.mark.once,
        ),
        {"num_layers": 2, "local_rope_scaling_factor": 2.0, "use_sliding_window_attention": False},
    ],
    ids=["windows", "full"],
)
def test_decoder_is_keras_hub_s_model(changes, rng, tmp_path):
    theirs = hub_backbone(**changes)
    theirs.save_to_preset(tmp_path)
    ids = rng.integers(0, 101, size=(2, 17)).astype("int32")
    backbone = load_gemma3(tmp_path)
    wanted = hub_logits(theirs, ids)
    np.testing.assert_allclose(masked_encoder_logits(backbone, ids), wanted, rtol=1e-5, atol=1e-5)
    windows = [layer.window for layer in backbone.config.decoder.layers]
    has_windows = "local_rope_scaling_factor" not in changes
    assert windows == ([6] * 5 + [None, 6] if has_windows else [None] * 2)


@pytest.mark.once
@pytest.mark.parametrize("is_sharded", [False, pytest.param(True, marks=pytest.mark.once)])
def test_preset_that_sees_images(is_sharded, images, tmp_path):
    theirs = hub_backbone(vision=True, num_layers=1)
    theirs.save_to_preset(tmp_path)
    if is_sharded:
        (tmp_path / "model.weights.h5").unlink()
        theirs.save_weights(tmp_path / "model.weights.json", max_shard_size=2e-5)
        assert len(list(tmp_path.glob("model_*.weights.h5"))) > 2
    backbone = load_gemma3(tmp_path)
    assert backbone.config.vision.tokens_per_image == 4
    wanted = theirs.vision_encoder.predict_on_batch(images[:, None])
    wanted = ops.convert_to_numpy(wanted).reshape(3, 4, 32)
    np.testing.assert_allclose(features(backbone, images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.once
def test_bfloat16_preset(tmp_path):
    theirs = hub_backbone(num_layers=1, dtype="bfloat16")
    theirs.save_to_preset(tmp_path)
    backbone = load_gemma3(tmp_path, dtype="bfloat16")
    wanted = ops.convert_to_numpy(ops.cast(theirs.token_embedding.embeddings, "float32"))
    got = ops.convert_to_numpy(ops.cast(backbone.token_embedding.embeddings, "float32"))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.once
def test_task_of_a_preset_has_its_tokenizer(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat", "a dog in the house"]),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        model_type="BPE",
        minloglevel=3,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
        **{"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"},
        user_defined_symbols=["<start_of_image>", "<end_of_image>", "<img>", "<unused99>"],
    )
    tokenizer = keras_hub.models.Gemma3Tokenizer(model.getvalue())
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(
        tokenizer, image_converter=None, sequence_length=8
    )
    theirs = keras_hub.models.Gemma3CausalLM(preprocessor, hub_backbone(num_layers=1))
    theirs.save_to_preset(tmp_path)
    lm = T5Gemma2Seq2SeqLM.from_gemma3(tmp_path)
    ours = lm.preprocessor.tokenizer
    assert ours("a dog in the house") == [int(i) for i in tokenizer("a dog in the house")]
    assert lm.backbone.config.image_token_id == ours.image_token_id == 7
    # Its `sequence_length` is what training pads to; scaled positions are those of 131,072 tokens.
    caps = lm.preprocessor.encoder_sequence_length, lm.preprocessor.decoder_sequence_length
    assert caps == (131_072, 131_072)


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_query_key_norm": False}, "use_query_key_norm=False"),
        ({"use_post_ffw_norm": False}, "use_post_ffw_norm=False"),
        ({"attention_logit_soft_cap": 50.0}, r"attn_logit_softcapping=50\.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"num_layers": 2}, r"Missing \(13\): layers\.1\.input_layernorm\.weight"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_layers": 10**9}, "from 1 to 10000.*num_layers=1000000000"),
        ({"head_dim": None}, "head_dim=None"),
    ],
)
def test_other_presets_are_an_error(changes, message, hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


@pytest.fixture(scope="module")
def hub_preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub")
    hub_backbone(num_layers=1).save_to_preset(path)
    return path


@pytest.mark.once
def test_config_of_an_older_release(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    content = json.loads((path / "config.json").read_text())
    newer = ("is_embedding_model", "local_rope_scaling_factor", "use_bidirectional_attention")
    for key in newer:
        del content["config"][key]
    (path / "config.json").write_text(json.dumps(content))
    assert load_gemma3(path).config == load_gemma3(hub_preset).config


@pytest.mark.once
def test_preset_of_another_model_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    content = json.loads((path / "config.json").read_text())
    content["registered_name"] = "keras_hub>GemmaBackbone"
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="registered_name='keras_hub>GemmaBackbone'"):
        load_gemma3(path)


@pytest.mark.once
def test_preset_without_weights_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    weights = path / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is no whole weight file"):
        load_gemma3(path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"must be in model\.weights\.h5, or in shards"):
        load_gemma3(path)
    index = {"weight_map": {"/layers/x/vars": "../other.weights.h5"}}
    (path / "model.weights.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"'\.\./other\.weights\.h5'"):
        load_gemma3(path)


@pytest.mark.once
def test_quantized_preset_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    with h5py.File(path / "model.weights.h5", "a") as file:
        del file["layers/rms_normalization/vars/0"]
        file["layers/rms_normalization/vars/0"] = np.ones(32, "int8")
    with pytest.raises(ValueError, match=r"rms_normalization/vars/0 of type int8"):
        load_gemma3(path)


def _changed(preset, target, changes):
    """A copy of a preset with some values of its config replaced."""
    (target / "model.weights.h5").write_bytes((preset / "model.weights.h5").read_bytes())
    content = json.loads((preset / "config.json").read_text())
    content["config"] |= changes
    (target / "config.json").write_text(json.dumps(content))
    return target


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
