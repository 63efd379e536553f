"""Gemma 3 in a GGUF file: sizes, weights and tokenizer are those of its own checkpoints."""

import numpy as np
import pytest
from checkpoints import load_gemma3, load_gemma3_tokenizer
from keras import ops
from reference_gemma3 import tiny_gemma3, write_gguf

from keras_t5gemma2.checkpoints.gemma3.gguf import read_gemma3_gguf
from keras_t5gemma2.config import AttentionConfig

pytestmark = pytest.mark.once  # the layers are those of any checkpoint


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


def test_gguf_file_gives_the_model_of_the_directory(model, directory, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    wanted, backbone = load_gemma3(directory), load_gemma3(path)
    assert backbone.config == wanted.config
    wanted = weights(wanted)
    for name, value in weights(backbone).items():
        # The norms went through 1 + weight.
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-6, err_msg=name)


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
