"""`config.json` of the reference, as published, as saved now, and as older releases wrote it."""

import copy
import dataclasses
import json

import pytest
from reference_models import tiny_config
from transformers import T5Gemma2Config

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers
from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    VisionConfig,
    interleave,
)

ROPE = {
    "full_attention": {"factor": 8.0, "rope_theta": 1_000_000.0, "rope_type": "linear"},
    "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
}
SMALL_VISION = {
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 7,
    "vision_use_head": False,
}
SMALL = {
    "model_type": "t5gemma2",
    "encoder": {"vision_config": SMALL_VISION, "mm_tokens_per_image": 4},
}


def published_270m():
    """The published 270m-270m config, less what does not concern the model's sizes."""
    text = {
        "_sliding_window_pattern": 6,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "dropout_rate": 0.0,
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 640,
        "intermediate_size": 2048,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_parameters": ROPE,
        "sliding_window": 512,
        "use_bidirectional_attention": False,
        "use_cache": True,
        "vocab_size": 262144,
    }
    return {
        "attention_dropout": 0.0,
        "classifier_dropout_rate": 0.0,
        "decoder": {**text, "model_type": "t5gemma2_decoder"},
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
        "encoder": {
            "boi_token_index": 255999,
            "dropout_rate": 0.0,
            "eoi_token_index": 256000,
            "image_token_index": 256001,
            "mm_tokens_per_image": 256,
            "model_type": "t5gemma2_encoder",
            "text_config": {**text, "model_type": "t5gemma2_text"},
            "vision_config": {
                "hidden_size": 1152,
                "image_size": 896,
                "intermediate_size": 4304,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
                "vision_use_head": False,
            },
            "vocab_size": 262144,
        },
        "eoi_token_index": 256000,
        "image_token_index": 256001,
        "is_encoder_decoder": True,
        "model_type": "t5gemma2",
    }


def changed(values, path, value):
    """A copy of `values` with another value at a path of keys such as "encoder.eoi_token_index"."""
    values = copy.deepcopy(values)
    *parents, key = path.split(".")
    part = values
    for parent in parents:
        part = part.setdefault(parent, {})
    part[key] = value
    return values


def test_published_config():
    local = AttentionConfig(4, 1, 256, window=512)
    full = AttentionConfig(4, 1, 256, rope_theta=1e6, rope_factor=8.0)
    stack = StackConfig(640, 2048, interleave(local, full, 18))
    wanted = BackboneConfig(262144, stack, stack, VisionConfig(), 256000, 256001)
    assert config_from_transformers(published_270m()) == wanted


def test_defaults_are_the_reference_classes(tmp_path):
    """An all but empty file and the one that the reference makes of it mean the same model."""
    T5Gemma2Config(**SMALL).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert len(saved["decoder"]) > 20
    assert config_from_transformers(SMALL) == config_from_transformers(saved)


def test_saved_config_of_a_model_of_two_different_stacks(tmp_path):
    T5Gemma2Config(**tiny_config(dropout_rate=0.1, attention_dropout=0.3)).save_pretrained(tmp_path)
    config = config_from_transformers(json.loads((tmp_path / "config.json").read_text()))
    local = AttentionConfig(4, 2, 8, 6, query_pre_attn_scalar=11, dropout=0.3)
    assert config.encoder.layers[0] == local
    assert config.encoder.layers[1].window is None
    assert config.encoder.layers[1].rope_factor == 8.0
    assert (config.encoder.mlp_dim, config.decoder.mlp_dim) == (48, 56)
    assert (len(config.encoder.layers), len(config.decoder.layers)) == (3, 4)
    assert config.decoder.layers[3].num_kv_heads == 1
    assert (config.encoder.dropout, config.decoder.dropout) == (0.1, 0.1)
    assert config.vision == VisionConfig(28, 7, 24, 36, 2, 3, 4, dropout=0.3)
    assert (config.end_of_image_token_id, config.image_token_id) == (6, 7)


def test_rates_of_the_whole_win_over_those_of_its_parts():
    values = changed(SMALL, "decoder.dropout_rate", 0.5)
    values = changed(values, "encoder.vision_config.attention_dropout", 0.5)
    config = config_from_transformers(values)
    assert (config.decoder.dropout, config.vision.dropout) == (0.0, 0.0)


@pytest.mark.parametrize(
    "path, value, field, wanted",
    [
        ("image_token_index", 9, "image_token_id", 9),
        ("image_token_id", 9, "image_token_id", 9),
        ("encoder.image_token_index", 9, "image_token_id", 256001),
        ("encoder.eoi_token_index", 9, "end_of_image_token_id", 9),
        ("eoi_token_index", 9, "end_of_image_token_id", 256000),
        ("decoder.final_logit_softcapping", 30.0, "final_logit_soft_cap", 30.0),
        ("decoder.attn_logit_softcapping", 50.0, "final_logit_soft_cap", None),
    ],
)
def test_values_of_the_whole_model(path, value, field, wanted):
    values = changed(SMALL, path, value)
    assert getattr(config_from_transformers(values), field) == wanted
    # The reference reads the same values in the same way.
    reference = T5Gemma2Config(**{key: values[key] for key in values if key != "model_type"})
    theirs = {
        "image_token_id": reference.image_token_index,
        "end_of_image_token_id": reference.eoi_token_index,
        "final_logit_soft_cap": reference.decoder.final_logit_softcapping,
    }
    assert theirs[field] == wanted


@pytest.mark.parametrize(
    "fields, full, sliding",
    [
        ({}, (1e6, 1.0), (1e4, 1.0)),
        ({"rope_parameters": ROPE}, (1e6, 8.0), (1e4, 1.0)),
        ({"rope_parameters": None, "rope_theta": 5e5}, (5e5, 1.0), (1e4, 1.0)),
        ({"rope_local_base_freq": 3e3}, (1e6, 1.0), (3e3, 1.0)),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4}}, (1e6, 4.0), (1e4, 1.0)),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, (1e6, 4.0), (1e4, 1.0)),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 7e5},
            (7e5, 4.0),
            (1e4, 1.0),
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 7e5}},
            (7e5, 4.0),
            (1e4, 1.0),
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}},
            (1e6, 4.0),
            (1e4, 1.0),
        ),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 3.0}}},
            (1e6, 1.0),
            (1e4, 3.0),
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 4e5}}, "rope_theta": 5e5},
            (4e5, 1.0),
            (1e4, 1.0),
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default", "factor": 8.0}}},
            (1e6, 1.0),
            (1e4, 1.0),
        ),
    ],
)
def test_forms_of_rope(fields, full, sliding):
    layers = config_from_transformers({**SMALL, "decoder": fields}).decoder.layers
    assert (layers[5].rope_theta, layers[5].rope_factor) == full
    assert (layers[4].rope_theta, layers[4].rope_factor) == sliding


def test_layer_pattern():
    def windows(**fields):
        config = config_from_transformers({**SMALL, "decoder": {"num_hidden_layers": 7, **fields}})
        return [layer.window for layer in config.decoder.layers]

    assert windows() == [*[4096] * 5, None, 4096]
    assert windows(sliding_window_pattern=3) == [4096, 4096, None, 4096, 4096, None, 4096]
    assert windows(_sliding_window_pattern=3) == windows()
    kinds = ["full_attention", *["sliding_attention"] * 6]
    assert windows(layer_types=kinds, sliding_window=11) == [None, *[11] * 6]
    assert windows(layer_types=["full_attention"] * 7, sliding_window=None) == [None] * 7


def test_text_only_does_not_look_at_the_vision_part():
    values = changed(published_270m(), "encoder.vision_config.image_size", "large")
    config = config_from_transformers(values, text_only=True)
    assert config.vision is None
    assert config.encoder == config_from_transformers(published_270m()).encoder


def test_an_encoder_alone():
    whole = published_270m()
    ids = {"image_token_index": whole["image_token_index"]}
    values = {**whole["encoder"], **ids, "model_type": "t5gemma2_encoder"}
    want = dataclasses.replace(config_from_transformers(whole), decoder=None)
    assert config_from_transformers(values) == want


@pytest.mark.parametrize(
    "path, value",
    [
        ("model_type", "t5gemma"),
        ("model_type", "gemma3_text"),
        ("model_type", ["t5gemma2"]),
        ("model_type", None),
        ("is_encoder_decoder", False),
        ("tie_word_embeddings", False),
        ("dropout_rate", 1.0),
        ("dropout_rate", -0.5),
        ("attention_dropout", "0.5"),
        ("image_token_index", -1),
        ("encoder.eoi_token_index", 2.0),
        ("encoder.mm_tokens_per_image", 0),
        ("encoder.vision_config.hidden_act", "gelu"),
        ("encoder.vision_config.vision_use_head", True),
        ("encoder.vision_config.num_channels", 4),
        ("encoder.vision_config.image_size", [896, 448]),
        ("encoder.vision_config.model_type", "clip_vision_model"),
        ("encoder.vision_config.num_hidden_layers", 10**9),
        ("encoder.vision_config.layer_norm_eps", 0.0),
        ("decoder.hidden_activation", "silu"),
        ("decoder.attention_bias", True),
        ("decoder.hidden_size", 0),
        ("decoder.hidden_size", 10**12),
        ("decoder.hidden_size", 1152.0),
        ("decoder.hidden_size", 1152),
        ("decoder.vocab_size", True),
        ("decoder.vocab_size", 262144),
        ("decoder.num_hidden_layers", 10**6),
        ("decoder.head_dim", None),
        ("decoder.sliding_window", None),
        ("decoder.sliding_window", 0),
        ("decoder.rms_norm_eps", float("nan")),
        ("decoder.query_pre_attn_scalar", 0),
        ("decoder.final_logit_softcapping", -30.0),
        ("decoder.layer_types", ["full_attention"]),
        ("decoder.layer_types", "full_attention"),
        ("decoder.layer_types", ["chunked_attention"] * 26),
        ("decoder.rope_scaling", 8.0),
        ("decoder.rope_parameters", [8.0]),
        ("decoder.rope_parameters.full_attention.rope_type", "yarn"),
        ("decoder.rope_parameters.full_attention.rope_type", "dynamic"),
        ("decoder.rope_parameters.full_attention.partial_rotary_factor", 0.5),
        ("decoder.rope_parameters.sliding_attention.rope_theta", -1.0),
        ("encoder.text_config.rope_theta", float("inf")),
    ],
)
def test_what_the_model_cannot_do_is_an_error(path, value):
    key = path.rpartition(".")[2]
    with pytest.raises(ValueError) as error:
        config_from_transformers(changed(SMALL, path, value))
    assert f"`{path}`" in str(error.value) or f"`{key}`" in str(error.value)
    assert repr(value)[:30] in str(error.value)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model_type", "gemma3", "from_gemma3"),
        ("decoder.num_key_value_heads", 3, "`decoder` of config.json: .*num_kv_heads=3"),
        (
            "encoder.vision_config",
            {},
            "vision_use_head=True, the default where the file says nothing",
        ),
        (
            "decoder.rope_parameters",
            {"full_attention": {"rope_type": "linear"}},
            r"`decoder.rope_parameters.full_attention.factor`.*factor=None",
        ),
        ("encoder", [1], r"`encoder` of config.json must be an object. Received: \[1\]"),
    ],
)
def test_messages(path, value, message):
    with pytest.raises(ValueError, match=message):
        config_from_transformers(changed(SMALL, path, value))


def test_a_list_is_no_config():
    with pytest.raises(ValueError, match=r"config.json must be an object. Received: \[\]"):
        config_from_transformers([])
