"""Configurations refuse what cannot be, and survive JSON."""

import dataclasses
import json

import pytest
from tiny_models import CONFIG, DECODER, LOCAL, VISION

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
