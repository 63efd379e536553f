"""A generator without the methods of the task, and beside the task's own."""

import gc
import weakref

import keras_hub
import numpy as np
import pytest
from tasks import tiny_task
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import BeamSearch, T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation.generator import Generator
from keras_t5gemma2.generation.infilling import infill
from keras_t5gemma2.generation.streaming import stream

OPTIONS = {"stop_token_ids": None, "max_new_tokens": 9}


@pytest.fixture
def lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    return lm


@pytest.mark.once
def test_another_generator_of_a_task_has_settings_and_programs_of_its_own(lm, rng):
    inputs = token_inputs(rng, (5, 9), (1, 3))
    want = lm.generate(inputs, **OPTIONS)["decoder_token_ids"]
    other = Generator(lm, keras_hub.samplers.RandomSampler(seed=1, temperature=50.0), "shared")
    drawn = other.generate(inputs, **OPTIONS)["decoder_token_ids"]
    assert (drawn != want).any()
    assert len(lm.generator.programs) and len(other.programs)
    assert lm.generator.programs is not other.programs
    assert (lm.cross_attention_cache, other.cross_attention_cache) == ("auto", "shared")
    lm.generate_function = None
    assert lm.generator.programs is None and other.programs is not None
    np.testing.assert_array_equal(lm.generate(inputs, **OPTIONS)["decoder_token_ids"], want)


@pytest.mark.once
def test_text_is_streamed_by_a_generator_alone():
    generator = Generator(tiny_task(), "greedy")
    limits, text = (None, 12), "the cat"
    pieces = stream(generator, text, limits, "auto", True, None, None, 0, {})
    assert "".join(pieces) == generator.generate(text, max_new_tokens=12, strip_prompt=True)
    with pytest.raises(ValueError, match="must be a token of the vocabulary"):
        infill(generator, "<extra_0>", "<none>")


@pytest.mark.once
def test_settings_are_checked(lm):
    with pytest.raises(ValueError, match="`cache_dtype` must be one of"):
        Generator(lm, cache_dtype="int4")
    with pytest.raises(ValueError, match="`cross_attention_cache` must be one of"):
        Generator(lm, cross_attention_cache="tiny")
    assert type(Generator(lm, "beam").sampler) is BeamSearch


@pytest.mark.once
def test_a_task_and_its_generator_are_freed_together(rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    lm.generate(token_inputs(rng, (5,), (1,)), **OPTIONS)
    generator = weakref.ref(lm.generator)
    del lm
    gc.collect()
    assert generator() is None
