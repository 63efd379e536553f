"""Sizes in the words of keras-hub's T5Gemma 2 and back, and what either cannot say."""

import dataclasses
import json

import pytest
from tiny_models import CONFIG, FULL, LOCAL, TEXT_CONFIG

from keras_t5gemma2.checkpoints.keras_hub.config import (
    config_from_keras_hub,
    config_to_keras_hub,
    is_keras_hub,
)

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "config",
    [CONFIG, TEXT_CONFIG, dataclasses.replace(CONFIG, final_logit_soft_cap=30.0)],
    ids=["vision", "text", "soft cap"],
)
def test_there_and_back(config):
    values = json.loads(json.dumps(config_to_keras_hub(config, "bfloat16")))
    assert is_keras_hub(values) and not is_keras_hub({**values, "registered_name": "T5Gemma2"})
    assert values["config"]["dtype"]["config"] == {"name": "bfloat16"}
    assert config_from_keras_hub(values, config.image_token_id) == config


def test_text_only_does_not_look_at_the_vision_tower():
    values = config_to_keras_hub(CONFIG)
    values["config"]["vision_encoder"] = "no tower"
    found = config_from_keras_hub(values, CONFIG.image_token_id, text_only=True)
    assert found == TEXT_CONFIG
    with pytest.raises(ValueError, match=r"config.vision_encoder` of config.json must be an obj"):
        config_from_keras_hub(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, r"encoder.layers\[0\].window=7 and 5"),
        ({"query_pre_attn_scalar": 3.0}, "query_pre_attn_scalar=3.0 and"),
        ({"num_heads": 3}, "num_heads=3 and 6"),
        ({"norm_epsilon": 1e-5}, "norm_epsilon=1e-05 and 1e-06"),
        ({"dropout": 0.5}, "dropout=0.5 and 0.0"),
    ],
)
def test_layers_that_differ(changes, message):
    """One odd layer, in the middle of the decoder or at the start of the encoder."""
    odd = dataclasses.replace(LOCAL, **changes)
    decoder = dataclasses.replace(CONFIG.decoder, layers=(LOCAL, FULL, odd))
    encoder = dataclasses.replace(CONFIG.encoder, layers=(odd, FULL, LOCAL))
    message = message.replace(r"encoder.layers\[0\]", r"coder.layers\[.\]")
    for part in ({"decoder": decoder}, {"encoder": encoder}):
        with pytest.raises(ValueError, match="keras-hub's T5Gemma 2 can be given"):
            config_to_keras_hub(dataclasses.replace(CONFIG, **part))
    with pytest.raises(ValueError, match=message):
        config_to_keras_hub(dataclasses.replace(CONFIG, decoder=decoder))


def test_a_base_of_rope_that_keras_hub_does_not_have():
    layers = tuple(dataclasses.replace(layer, rope_theta=5e5) for layer in CONFIG.encoder.layers)
    encoder = dataclasses.replace(CONFIG.encoder, layers=layers)
    with pytest.raises(ValueError, match=r"encoder.layers\[1\].rope_theta=500000.0 and 1000000.0"):
        config_to_keras_hub(dataclasses.replace(CONFIG, encoder=encoder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": False}, "`config.tie_word_embeddings` of config.json must be"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_activation": "relu"}, "hidden_activation='relu'"),
        ({"use_query_key_norm": False}, "use_query_key_norm=False"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"decoder_hidden_dim": 29}, "decoder_hidden_dim=29"),
        ({"cross_attention_hidden_size": 29}, "cross_attention_hidden_size=29"),
        ({"encoder_layer_types": ["full_attention"]}, "must be a list of 3"),
        ({"sliding_window": None}, "sliding_window=None"),
        ({"global_rope_scaling_factor": None}, "global_rope_scaling_factor=None"),
        ({"vocabulary_size": 1 << 40}, "vocabulary_size=1099511627776"),
        ({"encoder_num_layers": 10**9}, "encoder_num_layers=1000000000"),
        ({"decoder_num_key_value_heads": 4}, "`config` of config.json: `num_heads` must be a mu"),
        ({"dtype": {"class_name": "DTypePolicyMap"}}, "quantized weights cannot be read"),
        ({"vision": {"output_dim": 29}}, "output_dim=29"),
        ({"vision": {"pool_size": 3}}, "must divide the 4 patches .* pool_size=3"),
    ],
)
def test_configs_that_ask_for_something_else(changes, message):
    values = config_to_keras_hub(CONFIG)
    fields = values["config"]
    fields["vision_encoder"]["config"] |= changes.get("vision", {})
    fields |= {key: value for key, value in changes.items() if key != "vision"}
    with pytest.raises(ValueError, match=message):
        config_from_keras_hub(values)
