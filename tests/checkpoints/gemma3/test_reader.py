"""Gemma 3 checkpoints, as directories and as GGUF files, in both stacks."""

import json
import re
import sys

import gguf
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
    write_gguf,
)
from safetensors.torch import load_file, save_file
from tiny_vocabulary import tiny_tokenizer_json

from keras_t5gemma2.checkpoints.gemma3.gguf import read_gemma3_gguf
from keras_t5gemma2.config import AttentionConfig
from keras_t5gemma2.files.gguf import read_gguf

SLIDING, FULL = "sliding_attention", "full_attention"
pytestmark = pytest.mark.once  # the layers are those of any checkpoint
ROPE = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 7_000.0},
}
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused99>", "▁", "h", "i", "hi"]
TOKENIZER = {
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": [-1000.0, -1000.0, -1000.0, -1000.0, -1000.0, -4.0, -3.0, -2.0, -1.0],
    "tokenizer.ggml.token_type": [3, 3, 3, 3, 3, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.unknown_token_id": 3,
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


# GGUF files -----------------------------------------------------------------------------------


def test_gguf_file_gives_the_model_of_the_directory(model, directory, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    wanted, backbone = load_gemma3(directory), load_gemma3(path)
    assert backbone.config == wanted.config
    wanted = weights(wanted)
    for name, value in weights(backbone).items():
        # The norms went through 1 + weight.
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_0", "Q4_0"])
def test_quantized_tensors_are_those_of_the_library(kind, model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model, kind)
    found = read_gguf(path).tensors
    wanted = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(found[name].read(), values, err_msg=name)
        assert found[name].shape == values.shape


def test_large_tensors_are_read_in_pieces(model, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", model, "Q8_0")
    whole = read_gguf(path).tensors["token_embd.weight"].read()
    monkeypatch.setattr("keras_t5gemma2.files.gguf._VALUES_AT_ONCE", 7 * 32)
    np.testing.assert_array_equal(read_gguf(path).tensors["token_embd.weight"].read(), whole)


def test_metadata_are_those_of_the_library(model, tmp_path):
    more = {
        "a.bool": True,
        "a.float": 0.1,
        "a.text": "Straße",
        "a.numbers": [3, 5],
        "a.list": PIECES,
    }
    path = write_gguf(tmp_path / "model.gguf", model, metadata=more)
    wanted = {
        key: field.contents()
        for key, field in gguf.GGUFReader(path).fields.items()
        if not key.startswith("GGUF.")
    }
    found = read_gguf(path).metadata
    assert found.keys() == wanted.keys() >= more.keys()
    for key, value in wanted.items():
        single = np.float32 if isinstance(value, float) else lambda same: same
        np.testing.assert_array_equal(single(found[key]), single(value), err_msg=key)
    assert found["a.float"] == 0.1  # and not the 0.10000000149011612 that float32 makes of it
    assert found["gemma3.attention.layer_norm_rms_epsilon"] == 1e-6


def test_sizes_come_from_the_metadata(tmp_path):
    model = tiny_gemma3(num_hidden_layers=7, layer_types=None)
    more = {
        "gemma3.attention.sliding_window_pattern": None,  # then every sixth layer is full
        "gemma3.attention.sliding_window": 33,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-5,
        "gemma3.rope.freq_base": 2e6,
        "gemma3.rope.freq_base_swa": 3e4,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.final_logit_softcapping": 30.0,
    }
    config = load_gemma3(write_gguf(tmp_path / "model.gguf", model, metadata=more)).config
    assert config.final_logit_soft_cap == 30.0
    assert config.encoder == config.decoder
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32}
    local = AttentionConfig(**sizes, window=33, rope_theta=3e4, norm_epsilon=1e-5)
    full = AttentionConfig(**sizes, rope_theta=2e6, rope_factor=8.0, norm_epsilon=1e-5)
    assert config.decoder.layers == (local, local, local, local, local, full, local)


def test_without_a_window_all_layers_are_full(model, tmp_path):
    more = {"gemma3.attention.sliding_window": None}
    config = load_gemma3(write_gguf(tmp_path / "model.gguf", model, metadata=more)).config
    assert [layer.window for layer in config.decoder.layers] == [None, None, None]


@pytest.mark.parametrize(("num_layers", "scalar"), [(61, 32), (62, 8)])
def test_27b_scales_its_attention_in_another_way(num_layers, scalar, model, tmp_path):
    more = {"gemma3.block_count": num_layers}
    values, _ = read_gemma3_gguf(write_gguf(tmp_path / "model.gguf", model, metadata=more))
    assert values["query_pre_attn_scalar"] == scalar


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"general.architecture": "llama"}, {}, "general.architecture='llama'"),
        ({"gemma3.block_count": None}, {}, r"Missing in .*: gemma3\.block_count"),
        ({"gemma3.attn_logit_softcapping": 50.0}, {}, r"attn_logit_softcapping=50\.0"),
        ({"gemma3.rope.scaling.factor": 2.0, "gemma3.rope.scaling.type": "yarn"}, {}, "'yarn'"),
        ({}, {"blk.1.ffn_up.weight": None}, r"Missing \(1\): layers\.1\.mlp\.up_proj\.weight"),
        ({}, {"rope_freqs.weight": np.ones(3, "float32")}, r"Unexpected \(1\): rope_freqs\.weight"),
        ({}, {"output_norm.weight": np.ones(31, "float32")}, r"output_norm\.weight.*\(31,\)"),
        (
            {},
            {"output.weight": np.ones((101, 32), "float32")},
            r"output\.weight, which differs from token_embd\.weight",
        ),
    ],
)
def test_other_gguf_files_are_an_error(metadata, tensors, message, model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model, metadata=metadata, tensors=tensors)
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


def test_a_file_that_is_no_gguf_is_an_error(tmp_path):
    path = tmp_path / "model.gguf"
    for content in (b"PK\x03\x04 a zip file", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"begins with {content[:4]}")):
            load_gemma3(path)


def test_an_unknown_version_is_an_error(model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    content = path.read_bytes()
    # That of a big-endian file.
    path.write_bytes(content[:4] + (3).to_bytes(4, "big") + content[8:])
    with pytest.raises(ValueError, match=f"version {3 << 24}"):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (5, "its header goes on to byte 8, and the file has 5"),
        (100, "its header goes on to byte"),
        (-1, r"the tensor output_norm\.weight goes on to byte"),
    ],
)
def test_a_file_that_is_cut_off_is_an_error(kept, message, model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("number", "message"),
    [(99, r"of shape \(7, 256\) and type 99"), (15, r"token_embd\.weight of type Q8_K")],
)
def test_an_unknown_type_of_tensor_is_an_error(number, message, model, tmp_path):
    sizes = {"hidden_size": 256, "vocab_size": 7}
    path = write_gguf(tmp_path / "model.gguf", tiny_gemma3(**sizes))
    entry = (
        b"token_embd.weight" + np.array([2], "<u4").tobytes() + np.array([256, 7], "<u8").tobytes()
    )
    content = path.read_bytes()
    assert content.count(entry + bytes(4)) == 1
    path.write_bytes(content.replace(entry + bytes(4), entry + bytes([number, 0, 0, 0])))
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


def test_without_the_gguf_package_the_error_says_what_to_install(model, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", model, metadata=TOKENIZER)
    monkeypatch.setitem(sys.modules, "gguf", None)
    for load in (load_gemma3, load_gemma3_tokenizer):
        with pytest.raises(ImportError, match=r'pip install "keras-t5gemma2\[gguf\]"'):
            load(path)


# Tokenizers -----------------------------------------------------------------------------------


def test_tokenizer_in_a_gguf_file(model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model, metadata=TOKENIZER)
    tokenizer = load_gemma3_tokenizer(path)
    assert tokenizer("<bos>hi hi<image_soft_token>") == [2, 8, 5, 8, 4]
    assert (tokenizer.image_token_id, tokenizer.pad_token_id) == (4, 0)
    assert tokenizer.vocabulary_size() == len(PIECES)


def test_gguf_file_without_a_tokenizer_is_an_error(model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    with pytest.raises(ValueError, match=r"Missing in .*: tokenizer\.ggml\.tokens"):
        load_gemma3_tokenizer(path)


def test_tokenizer_in_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load_gemma3_tokenizer(tmp_path)
    tiny_tokenizer_json(tmp_path / "tokenizer.json")
    assert load_gemma3_tokenizer(tmp_path)("<bos>the") == [
        2,
        *load_gemma3_tokenizer(tmp_path)("the"),
    ]
