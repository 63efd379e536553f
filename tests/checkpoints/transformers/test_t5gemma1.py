"""The reference's `config.json` of T5Gemma 1, read and written."""

import dataclasses
import json

import pytest
from reference_t5gemma1 import tiny_t5gemma1
from tasks_t5gemma1 import CONFIG
from transformers import T5GemmaConfig

from keras_t5gemma2.checkpoints.transformers.config_writer import PUBLISHED_IDS
from keras_t5gemma2.checkpoints.transformers.t5gemma1 import (
    config_from_transformers,
    config_to_transformers,
    context_lengths,
)
from keras_t5gemma2.planning.weights import first_generation

pytestmark = pytest.mark.once


def test_what_a_file_leaves_out_is_that_of_2b():
    want = first_generation("2b", "2b")
    assert config_from_transformers({"model_type": "t5gemma"}) == want
    assert config_from_transformers(T5GemmaConfig().to_dict()) == want
    assert context_lengths({"model_type": "t5gemma"}) == (8192, 8192)


@pytest.mark.parametrize("sizes", [("s", "s"), ("ml", "ml"), ("9b", "2b")], ids="-".join)
def test_published_sizes_come_back_and_are_the_reference_s(sizes):
    config = first_generation(*sizes)
    values = json.loads(json.dumps(config_to_transformers(config, "bfloat16")))
    assert config_from_transformers(values) == config
    theirs = T5GemmaConfig(**values)
    assert config_from_transformers(theirs.to_dict()) == config
    assert theirs.decoder.cross_attention_hidden_size == config.encoder.hidden_dim
    assert values["eos_token_id"] == PUBLISHED_IDS["eos"]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG.encoder_alone(),
        config_from_transformers(tiny_t5gemma1(dropout_rate=0.1).config.to_dict()),
    ],
    ids=["unequal", "encoder", "dropout"],
)
def test_a_configuration_comes_back(config):
    values = json.loads(json.dumps(config_to_transformers(config)))
    assert config_from_transformers(values) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "encoder.layers.0.qk_norm=None"),
        ({"window": 8}, r"window=8 \(which would be 7\)"),
        ({"soft_cap": 7.0}, "soft_cap=2.0"),
    ],
)
def test_a_configuration_that_the_reference_cannot_say(changes, message):
    first, second = CONFIG.encoder.layers
    layers = (dataclasses.replace(first, **changes), second)
    encoder = dataclasses.replace(CONFIG.encoder, layers=layers)
    with pytest.raises(ValueError, match=message):
        config_to_transformers(dataclasses.replace(CONFIG, encoder=encoder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"is_encoder_decoder": "no"}, "is_encoder_decoder='no'"),
        ({"encoder": {"vocab_size": 7}}, "`decoder.vocab_size` of config.json must be 7"),
        ({"decoder": {"attn_logit_softcapping": -1}}, "attn_logit_softcapping=-1"),
        ({"decoder": {"attention_bias": True}}, "attention_bias=True"),
    ],
)
def test_what_the_model_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config_from_transformers({"model_type": "t5gemma", **changes})
