"""The model and the sampler that options mean."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.cli.models import load, sampler_of
from t5gemma2_cli.options import SAMPLERS

pytestmark = pytest.mark.once


def test_load(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.enable_lora(rank=2, target=["query"])
    lm.save_adapter(tmp_path / "adapter.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    options = {"dtype": "bfloat16", "text_only": True, "encoder_length": 17, "decoder_length": 13}
    for name in ("adapter.safetensors", "peft"):
        found = load("t5gemma2_tiny", tmp_path / name, **options)
        assert found.active_adapter == "default"
    assert found.backbone.config.vision is None and found.dtype_policy.name == "bfloat16"
    assert found.preprocessor.encoder_sequence_length == 17
    assert found.preprocessor.decoder_sequence_length == 13
    assert set(load("t5gemma2_tiny", quantize="int8").backbone.quantized_layers.values()) == {
        "int8"
    }


@pytest.mark.parametrize(
    ("options", "kind", "values"),
    [
        ({"top_k": 3}, "TopKSampler", {"k": 3}),
        ({"top_p": 0.7, "top_k": 9}, "TopPSampler", {"p": 0.7, "k": 9}),
        ({"temperature": 0.5}, "RandomSampler", {"temperature": 0.5}),
        ({"beams": 3}, "BeamSampler", {"num_beams": 3}),
        ({"name": "contrastive", "top_k": 4}, "ContrastiveSampler", {"k": 4}),
    ],
)
def test_samplers(options, kind, values):
    sampler = sampler_of(**options)
    assert type(sampler) is getattr(keras_hub.samplers, kind)
    assert {name: getattr(sampler, name) for name in values} == values


def test_every_sampler_of_the_options_is_known():
    for name in SAMPLERS:
        assert keras_hub.samplers.get(sampler_of(name)) is not None
    assert sampler_of() == "greedy"


def test_a_seed_is_of_the_sampler_and_of_keras():
    assert sampler_of("top_p", top_p=0.9, seed=5).seed == 5
    sampler_of(seed=5)
    first = np.asarray(keras.ops.convert_to_numpy(keras.random.normal((3,))))
    sampler_of(seed=5)
    assert (keras.ops.convert_to_numpy(keras.random.normal((3,))) == first).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "greedy", "temperature": 0.5},
            "Received: --temperature 0.5 with",
        ),
        ({"beams": 2, "top_p": 0.5}, "`--top-p` must go with --sampler top_p. .* --sampler beam"),
        ({"name": "random", "top_k": 2}, "--sampler top_k or top_p or contrastive"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampler_of(**options)
