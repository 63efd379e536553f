"""Configurations refuse what cannot be, and survive JSON."""

import dataclasses
import json

import numpy as np
import pytest
from tasks import small_task
from tasks_t5gemma1 import CONFIG as FIRST
from tiny_models import CONFIG, DECODER, LOCAL, SMALL_CONFIG, VISION

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.own import reader
from keras_t5gemma2.config import BackboneConfig, interleave

pytestmark = pytest.mark.once


def test_json_and_back():
    assert BackboneConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_text_only_json_and_back():
    config = dataclasses.replace(CONFIG, vision=None, final_logit_soft_cap=30.0)
    assert BackboneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_interleave_puts_a_full_layer_at_every_sixth():
    layers = interleave("local", "full", num_layers=13)
    assert [i for i, layer in enumerate(layers) if layer == "full"] == [5, 11]


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LOCAL, {"num_kv_heads": 4}, "num_heads=6, num_kv_heads=4"),
        (LOCAL, {"head_dim": 7}, "head_dim=7"),
        (LOCAL, {"window": 0}, "window=0"),
        (LOCAL, {"num_heads": 0}, "num_heads=0"),
        (LOCAL, {"rope_theta": -1}, "`rope_theta` must be positive. Received: rope_theta=-1"),
        (LOCAL, {"rope_theta": float("nan")}, "`rope_theta` must be finite.*=nan"),
        (LOCAL, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0"),
        (LOCAL, {"norm_epsilon": float("inf")}, "`norm_epsilon` must be finite.*=inf"),
        (LOCAL, {"soft_cap": float("nan")}, "`soft_cap` must be finite.*=nan"),
        (LOCAL, {"dropout": 1}, "`dropout` must be at least 0 and below 1. Received: dropout=1"),
        (DECODER, {"dropout": -0.1}, "dropout=-0.1"),
        (VISION, {"num_layers": -1}, "num_layers=-1"),
        (LOCAL, {"rope_factor": 10**400}, "`rope_factor` must be finite.*=1000"),
        (LOCAL, {"rope_factor": 1e-38}, "`rope_factor` must be 0 or .* 1e-30 to 1e.30.*=1e-38"),
        (LOCAL, {"rope_theta": 1e300}, "`rope_theta` must be 0 or .* 1e-30 to 1e.30.*=1e.300"),
        (VISION, {"norm_epsilon": 1e-50}, "norm_epsilon=1e-50"),
        (LOCAL, {"head_dim": 10**400}, "`head_dim` must be at most 2147483647.*=1000"),
        (CONFIG, {"image_token_id": 10**9999}, "image_token_id=<int of 33216 bits>"),
        (CONFIG, {"final_logit_soft_cap": -30}, "final_logit_soft_cap=-30"),
        (VISION, {"num_heads": 5}, "hidden_dim=24, num_heads=5"),
        (VISION, {"tokens_per_image": 5}, "tokens_per_image=5"),
        (VISION, {"tokens_per_image": 9}, "image_size=28, patch_size=7, tokens_per_image=9"),
        (CONFIG, {"vocabulary_size": 0}, "vocabulary_size=0"),
        (
            CONFIG,
            {"decoder": dataclasses.replace(DECODER, hidden_dim=30)},
            "encoder.hidden_dim=28, decoder.hidden_dim=30",
        ),
    ],
)
def test_what_cannot_be_is_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_what_files_did_not_say_is_written_only_where_it_is_another():
    fields = CONFIG.to_dict()
    assert "decoder_table" not in fields and "cross_attention_dim" not in fields["decoder"]
    assert not {"qk_norm", "soft_cap"} & set(fields["encoder"]["layers"][0])
    fields = FIRST.to_dict()
    assert fields["decoder_table"] is True and fields["decoder"]["cross_attention_dim"] == 28
    assert fields["encoder"]["layers"][0]["qk_norm"] is False
    assert BackboneConfig.from_dict(json.loads(json.dumps(fields))) == FIRST
    assert reader.backbone_config("here", json.loads(json.dumps(fields))) == FIRST
    fields["decoder_table"] = 1
    with pytest.raises(ValueError, match="decoder_table=1"):
        reader.backbone_config("here", fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_table": False}, "same `hidden_dim`, unless .* decoder.hidden_dim=20"),
        ({"encoder": FIRST.decoder}, "encoder.cross_attention_dim=28"),
        (
            {"decoder": dataclasses.replace(FIRST.decoder, cross_attention_dim=20)},
            "cross_attention_dim=20, encoder.hidden_dim=28",
        ),
        ({"decoder": None}, "decoder_table=True, decoder=None"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FIRST, **change)


def test_flags_must_be_true_or_false():
    with pytest.raises(TypeError, match="qk_norm=1"):
        dataclasses.replace(LOCAL, qk_norm=1)
    with pytest.raises(ValueError, match="`soft_cap` must be positive"):
        dataclasses.replace(LOCAL, soft_cap=0.0)


def _of_numpy(value):
    """A config's fields with numbers of numpy; bools stay."""
    if isinstance(value, dict):
        return {key: _of_numpy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_of_numpy(part) for part in value]
    if type(value) is int:
        return np.int64(value)
    return np.float64(value) if type(value) is float else value


def test_numbers_of_numpy_are_taken_and_become_python_s():
    fields = _of_numpy(CONFIG.to_dict())
    assert type(fields["vocabulary_size"]) is np.int64
    config = BackboneConfig.from_dict(fields)
    assert config == CONFIG
    assert json.dumps(config.to_dict()) == json.dumps(CONFIG.to_dict())
    assert reader.backbone_config("here", fields) == CONFIG


def test_a_backbone_of_numpy_s_numbers_is_made_and_made_again(tmp_path):
    config = small_task().backbone.config
    backbone = T5Gemma2Backbone(_of_numpy(config.to_dict()))
    fields = {**backbone.get_config(), "config": _of_numpy(config.to_dict())}
    assert T5Gemma2Backbone.from_config(fields).config == config
    backbone.save_to_preset(tmp_path)
    assert T5Gemma2Backbone.from_preset(tmp_path).config == config


@pytest.mark.parametrize(
    ("config", "change", "rule"),
    [
        (LOCAL, {"num_heads": True}, "an integer"),
        (LOCAL, {"num_heads": np.bool_(True)}, "an integer"),
        (LOCAL, {"num_heads": 4.0}, "an integer"),
        (LOCAL, {"window": "4"}, "an integer, or `None`"),
        (LOCAL, {"dropout": True}, "a number"),
        (LOCAL, {"rope_theta": "1e4"}, "a number"),
        (VISION, {"num_layers": None}, "an integer"),
        (CONFIG, {"final_logit_soft_cap": False}, "a number, or `None`"),
    ],
)
def test_what_is_no_number_is_refused(config, change, rule):
    (name,) = change
    with pytest.raises(TypeError, match=f"`{name}` must be {rule}. Received: {name}="):
        dataclasses.replace(config, **change)


def test_only_full_attention_gets_other_positions():
    config = CONFIG.with_rope_factor(4)
    for stack, before in zip(config.stacks.values(), CONFIG.stacks.values(), strict=True):
        for layer, was in zip(stack.layers, before.layers, strict=True):
            factor = was.rope_factor if was.window else 4.0
            assert layer == dataclasses.replace(was, rope_factor=factor)
    assert config.with_rope_factor(8) == CONFIG  # instead of what is there, not times it


@pytest.mark.parametrize(
    ("factor", "message"),
    [(0, "rope_factor=0"), ("4x", "rope_factor='4x'"), (float("nan"), "rope_factor=nan")],
)
def test_a_factor_of_positions_is_above_0(factor, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CONFIG.with_rope_factor(factor)


def test_a_model_of_windows_alone_has_no_positions_to_stretch():
    with pytest.raises(ValueError, match=r"`rope_factor` needs a layer of full attention.*=4"):
        SMALL_CONFIG.with_rope_factor(4)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (DECODER, {"layers": (LOCAL, {"num_heads": 4})}, "`layers` must be of AttentionConfig"),
        (DECODER, {"experts": 8}, "`experts` must be of ExpertsConfig. Received: experts=8"),
        (CONFIG, {"encoder": None}, "`encoder` must be of StackConfig. Received: encoder=None"),
        (CONFIG, {"vision": True}, "`vision` must be of VisionConfig. Received: vision=True"),
    ],
)
def test_parts_are_configs_of_their_kind(config, change, message):
    with pytest.raises(TypeError, match=message):
        dataclasses.replace(config, **change)
