"""Configurations as the reference's `config.json`, and what it cannot say or would not accept."""

import dataclasses
import json

import pytest
from reference_models import tiny_config
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers.config_writer import config_to_transformers

pytestmark = pytest.mark.once


def reference_config(**changes):
    return config_from_transformers({"model_type": "t5gemma2", **tiny_config(**changes)})


def changed(config, **changes):
    """With other values, of the encoder's first layer where they belong to a layer."""
    of_layer = {f.name for f in dataclasses.fields(config.encoder.layers[0])}
    layer = {name: value for name, value in changes.items() if name in of_layer}
    stack = {name: value for name, value in changes.items() if name not in of_layer}
    layers = (dataclasses.replace(config.encoder.layers[0], **layer), *config.encoder.layers[1:])
    return dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, layers=layers, **stack)
    )


@pytest.mark.parametrize(
    "config",
    [
        reference_config(),
        reference_config(dropout_rate=0.1, attention_dropout=0.2),
        reference_config(text={"final_logit_softcapping": 7.0, "rms_norm_eps": 1e-5}),
        reference_config(encoder={"layer_types": ["full_attention"] * 3, "num_hidden_layers": 3}),
        dataclasses.replace(reference_config(), vision=None, image_token_id=9),
    ],
    ids=["usual", "dropout", "soft cap", "no window", "text"],
)
def test_a_configuration_comes_back(config):
    values = json.loads(json.dumps(config_to_transformers(config, "bfloat16")))
    assert config_from_transformers(values) == config
    assert values["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 5}, r"encoder.layers.2.window=6 \(which would be 5\)"),
        ({"rope_theta": 3.0}, r"encoder.layers.2.rope_theta=10000.0 \(which would be 3.0\)"),
        ({"norm_epsilon": 1e-5}, r"norm_epsilon=1e-05 \(which would be 1e-06\)"),
        ({"dropout": 0.3}, r"vision.dropout=0.0 \(which would be 0.3\)"),
    ],
)
def test_a_configuration_that_the_reference_cannot_say(changes, message):
    with pytest.raises(ValueError, match=message):
        config_to_transformers(changed(reference_config(), **changes))


def test_a_configuration_that_the_reference_does_not_accept():
    with pytest.raises(ValueError, match=r"encoder.hidden_dim=28, num_heads=6"):
        config_to_transformers(TEXT_CONFIG)
    config = reference_config(text={"query_pre_attn_scalar": 11.5})
    with pytest.raises(ValueError, match=r"encoder.query_pre_attn_scalar=11.5"):
        config_to_transformers(config)
    tower = dataclasses.replace(CONFIG.vision, num_layers=0)
    with pytest.raises(ValueError, match=r"vision.image_size=28 \(which would be None\)"):
        config_to_transformers(dataclasses.replace(reference_config(), vision=tower))
