"""Gemma 3 checkpoints, as directories and as GGUF files, in both stacks."""

import json
import re

import numpy as np
import pytest
import torch
from checkpoints import load_gemma3, load_gemma3_tokenizer
from keras import ops
from reference_gemma3 import (
    masked_encoder_logits,
    reference_logits,
    tiny_gemma3,
    tiny_gemma3_with_vision,
)
from safetensors.torch import load_file, save_file
from tiny_vocabulary import tiny_tokenizer_json

SLIDING, FULL = "sliding_attention", "full_attention"
pytestmark = pytest.mark.once  # the layers are those of any checkpoint
ROPE = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 7_000.0},
}


def weights(backbone):
    return {weight.path: ops.convert_to_numpy(weight) for weight in backbone.weights}


@pytest.fixture(scope="module")
def model():
    return tiny_gemma3()


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """A checkpoint directory, for tests that leave it as it is."""
    path = tmp_path_factory.mktemp("gemma3")
    model.save_pretrained(path)
    return path


# The decoder is the Gemma 3 model -------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_key_value_heads": 4, "sliding_window": 5},
        {"num_key_value_heads": 2, "rope_parameters": ROPE},
        {"num_key_value_heads": 1, "final_logit_softcapping": 3.0, "rms_norm_eps": 1e-2},
    ],
    ids=["mha", "gqa", "mqa"],
)
def test_decoder_is_the_gemma3_model(overrides, rng, tmp_path):
    model = tiny_gemma3(**overrides)
    model.save_pretrained(tmp_path)
    ids = rng.integers(0, 101, size=(3, 23)).astype("int32")
    logits = masked_encoder_logits(load_gemma3(tmp_path), ids)
    np.testing.assert_allclose(logits, reference_logits(model, ids), rtol=0, atol=1e-5)


def test_both_stacks_have_the_same_weights(directory):
    found = weights(load_gemma3(directory))
    encoder = {path: value for path, value in found.items() if path.startswith("encoder/")}
    assert len(encoder) == 3 * 13 + 1
    for path, value in encoder.items():
        np.testing.assert_array_equal(value, found[path.replace("encoder/", "decoder/")])


def test_encoder_looks_both_ways(directory):
    backbone = load_gemma3(directory)
    ids = np.arange(11, 18, dtype="int32")[None]
    changed = np.where(np.arange(7) == 6, 99, ids)
    ids = np.concatenate([ids, changed]).astype("int32")
    inputs = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": np.ones_like(ids),
        "decoder_token_ids": ids[:, :1],
        "decoder_padding_mask": np.ones_like(ids[:, :1]),
    }
    encoded = backbone.predict_on_batch(inputs)["encoder_sequence_output"]
    first, other = ops.convert_to_numpy(encoded)
    # Two layers with a window of 6 and one that sees everything.
    assert np.abs(first - other).max(axis=-1).min() > 1e-3
    assert [layer.window for layer in backbone.config.encoder.layers] == [6, None, 6]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
def test_end_of_image_is_what_it_was(dtype, tmp_path):
    sizes = {"hidden_size": 12, "head_dim": 4, "intermediate_size": 7, "num_hidden_layers": 1}
    model = tiny_gemma3(**sizes, layer_types=[FULL], vocab_size=256_003)
    model.save_pretrained(tmp_path)
    ids = np.array([[255_999, 256_000, 256_001]])
    x = load_gemma3(tmp_path, dtype=dtype).embedder(ids)
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    with torch.no_grad():
        wanted = model.to(kind).model.embed_tokens(torch.tensor(ids)).float().numpy()
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(x, "float32")), wanted)


def test_dtype_and_name_reach_the_backbone(directory):
    backbone = load_gemma3(directory, dtype="bfloat16", name="mine")
    assert backbone.name == "mine"
    assert {weight.dtype for weight in backbone.weights} == {"bfloat16"}


# Directories ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "language_model.model.", "model.language_model."])
def test_names_may_have_another_prefix(prefix, directory, tmp_path):
    tensors = load_file(directory / "model.safetensors")
    renamed = {prefix + name.removeprefix("model."): value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    wanted = weights(load_gemma3(directory))
    for path, value in weights(load_gemma3(tmp_path)).items():
        np.testing.assert_array_equal(value, wanted[path])


def test_text_part_of_a_model_that_sees_images(rng, tmp_path):
    model = tiny_gemma3_with_vision()
    model.save_pretrained(tmp_path)
    ids = rng.integers(10, 101, size=(2, 17)).astype("int32")
    backbone = load_gemma3(tmp_path, text_only=True)
    assert backbone.config.vision is None
    logits = masked_encoder_logits(backbone, ids)
    np.testing.assert_allclose(logits, reference_logits(model, ids), rtol=0, atol=1e-5)


def test_a_copy_of_the_table_may_be_there(directory, tmp_path):
    tensors = load_file(directory / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    path = _copy(directory, tmp_path, {"lm_head.weight": head})
    np.testing.assert_array_equal(
        weights(load_gemma3(path))["embedder/table/embeddings"], head.numpy()
    )


def test_another_matrix_for_the_logits_is_an_error(directory, tmp_path):
    head = torch.ones(101, 32)
    path = _copy(directory, tmp_path, {"lm_head.weight": head})
    with pytest.raises(ValueError, match=r"lm_head\.weight, which differs from model\.embed_token"):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping=50\.0"),
        ({"attention_bias": True}, "attention_bias=True"),
    ],
)
def test_other_models_are_an_error(changes, message, directory, tmp_path):
    path = _copy(directory, tmp_path, config=changes)
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, r"Missing \(1\): norm\.weight"),
        ({"model.bias": torch.ones(3)}, r"Unexpected \(1\): model\.bias"),
        ({"model.norm.weight": torch.ones(31)}, r"model\.norm\.weight.*shape=\(31,\)"),
        (
            {"model.norm.weight": torch.ones(32, dtype=torch.int8)},
            r"model\.norm\.weight of type int8",
        ),
    ],
)
def test_wrong_tensors_are_named(changes, message, directory, tmp_path):
    path = _copy(directory, tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


def test_nothing_at_the_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf', which does not exist"):
        load_gemma3(tmp_path / "nowhere.gguf")


def _copy(directory, tmp_path, tensors=None, config=None):
    """A directory with some tensors and config values replaced; None removes a tensor."""
    found = {**load_file(directory / "model.safetensors"), **(tensors or {})}
    kept = {name: value for name, value in found.items() if value is not None}
    save_file(kept, tmp_path / "model.safetensors")
    values = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **(config or {})}))
    return tmp_path


# Tokenizers -----------------------------------------------------------------------------------


def test_tokenizer_in_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load_gemma3_tokenizer(tmp_path)
    tiny_tokenizer_json(tmp_path / "tokenizer.json")
    assert load_gemma3_tokenizer(tmp_path)("<bos>the") == [
        2,
        *load_gemma3_tokenizer(tmp_path)("the"),
    ]
