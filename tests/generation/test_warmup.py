"""Compiling ahead of the first request."""

import dataclasses

import keras
import keras_hub
import numpy as np
import pytest
from tasks import small_task, tiny_task
from tiny_models import SMALL_CONFIG, VISION, tiny_backbone, token_inputs

import keras_t5gemma2
from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation.generator import Generator

# Op by op there is nothing to compile, and each call runs through the Python of the step.
TRACES = {"jax": 0, "tensorflow": 0, "torch": 1}[keras.config.backend()]


@pytest.fixture
def traces(monkeypatch):
    """What the step was traced for, or on torch called for."""
    found = []
    step = Generator.generate_step

    def counted(self, inputs, *args, **kwargs):
        found.append({name: tuple(getattr(value, "shape", ())) for name, value in inputs.items()})
        return step(self, inputs, *args, **kwargs)

    monkeypatch.setattr(Generator, "generate_step", counted)
    return found


@pytest.mark.once
def test_generate_of_warm_sizes_compiles_nothing(traces, rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    # 50 and 60 tokens are one size, and so are 70 and 128.
    lm.warmup([50, 60, 70], new_tokens=20, batch_size=2, stop_token_ids=None)
    assert len(traces) == 4 and sum("settings" in shapes for shapes in traces) == 2

    traces.clear()
    for length in (3, 128):
        inputs = token_inputs(rng, (length, 2), (1, 1))
        outputs = lm.generate(inputs, max_new_tokens=7, stop_token_ids=None)
        assert outputs["decoder_token_ids"].shape == (2, 8)
    assert len(traces) == 2 * TRACES

    # What is not warm is seen to be compiled.
    lm.generate(token_inputs(rng, (129, 2), (1, 1)), max_new_tokens=2, stop_token_ids=None)
    assert traces[-1]["encoder_token_ids"] == (2, 256)
    assert len(traces) == 2 * TRACES + 1


@pytest.mark.once
def test_warm_for_text_and_for_images(traces):
    lm = tiny_task(config=dataclasses.replace(SMALL_CONFIG, vision=VISION))
    lm.warmup(11, prompt_length=3)
    lm.warmup(11, images=2, prompt_length=3)
    shapes = [shapes["images"] for shapes in traces]
    assert shapes == [(1, 0, 28, 28, 3)] * 2 + [(1, 2, 28, 28, 3)] * 2
    traces.clear()
    image = np.zeros((30, 20, 3), "uint8")
    lm.generate({"encoder_text": "the cat", "decoder_text": "a dog"})
    lm.generate(
        {
            "encoder_text": "<start_of_image> <start_of_image>",
            "images": [image, image],
            "decoder_text": "a dog",
        }
    )
    assert len(traces) == 2 * TRACES


@pytest.mark.once
def test_random_numbers_go_on_as_if_nothing_had_been_generated():
    lm = small_task()
    lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=5))
    before = [keras.ops.convert_to_numpy(variable) for variable in lm.sampler.variables]
    lm.warmup(10)
    after = [keras.ops.convert_to_numpy(variable) for variable in lm.sampler.variables]
    assert before
    np.testing.assert_array_equal(before, after)
    lm.generate("the cat")
    assert (keras.ops.convert_to_numpy(lm.sampler.variables[0]) != before[0]).any()


def test_wrong_sizes_are_refused():
    lm = small_task()
    with pytest.raises(ValueError, match="Received: lengths=\\[5, 0\\]"):
        lm.warmup([5, 0])
    with pytest.raises(ValueError, match="Received: new_tokens=\\[2.5\\]"):
        lm.warmup(5, new_tokens=[2.5])
    with pytest.raises(ValueError, match="Received: images=3"):
        lm.warmup(5, images=3)


@pytest.mark.once
def test_calls_with_settings_are_warm_too(traces):
    lm = small_task()
    lm.warmup(10, new_tokens=8, stop_token_ids=None)
    assert len(traces) == 2
    traces.clear()
    options = {"max_new_tokens": 5, "stop_token_ids": None, "verbose": 0}
    lm.generate("the cat", **options)
    lm.generate("the cat", temperature=0.7, stop=["e"], seed=3, **options)
    assert len(traces) == 2 * TRACES


@pytest.mark.once
def test_other_settings_have_their_own_programs(traces):
    lm = small_task()
    options = {"stop_token_ids": None, "verbose": 0}
    given = {"num_beams": 2, "bad_words": ["a"]}
    lm.warmup(10, new_tokens=8, **given, **options)
    assert len(traces) == 1 and "settings" in traces[0]
    traces.clear()
    lm.generate("the cat", max_new_tokens=5, **given, **options)
    assert len(traces) == TRACES
    lm.warmup(10, constraint=keras_t5gemma2.constraints.grammar('start: "a"'), **options)
    programs = {key[0][0] for key in lm.generator.programs._by_key if key[0][0] != "generate"}
    assert TRACES or "a step of generate" in programs
    with pytest.raises(TypeError, match="`warmup` has no argument `max_new_tokens`"):
        lm.warmup(10, max_new_tokens=5)
