"""Steps of decoding that torch compiles: the same tokens, one program for each set of shapes."""

import shutil

import keras
import numpy as np
import pytest
from tiny_models import SMALL_CONFIG, TEXT_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import compiled_steps

pytestmark = [
    pytest.mark.skipif(keras.config.backend() != "torch", reason="elsewhere all is compiled"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with a C++ compiler"),
]


def new_tokens(lm, inputs, **options):
    options = {"max_new_tokens": 9, "strip_prompt": True, "stop_token_ids": None, **options}
    return lm.generate(inputs, **options)["decoder_token_ids"][:, :9]


def task(config, dtype=None, **options):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype=dtype), **options)
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture
def compiled(monkeypatch):
    """The graphs that torch was asked to compile; they are not compiled."""
    import torch

    graphs = []

    def record(graph, **_):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", record)
    return graphs


def both(lm, inputs, **options):
    """The tokens without and with `jit_compile`."""
    eager = new_tokens(lm, inputs, **options)
    lm.compile(sampler=lm.sampler, jit_compile=True)
    return eager, new_tokens(lm, inputs, **options)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {}),
        pytest.param("bfloat16", {}, marks=pytest.mark.slow),
        pytest.param("float32", {"cache_dtype": "int8"}, marks=pytest.mark.slow),
        pytest.param("float32", {"cross_attention_cache": "shared"}, marks=pytest.mark.slow),
    ],
)
def test_the_tokens_are_those_of_eager_steps(rng, dtype, options):
    lm = task(SMALL_CONFIG if dtype == "float32" else TEXT_CONFIG, dtype, **options)
    eager, compiled = both(lm, token_inputs(rng, [9, 4], [3, 1], side="left"))
    np.testing.assert_array_equal(compiled, eager)


@pytest.mark.parametrize(
    "sampler",
    ["greedy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("beam", "contrastive"))],
)
def test_what_is_recorded_is_a_step(rng, compiled, sampler):
    lm = task(TEXT_CONFIG if sampler == "greedy" else SMALL_CONFIG)
    lm.compile(sampler=sampler)
    eager, recorded = both(lm, token_inputs(rng, [9, 4], [3, 1], side="left"))
    np.testing.assert_array_equal(recorded, eager)
    assert compiled


def test_one_program_for_each_set_of_shapes(rng, compiled):
    lm = task(SMALL_CONFIG)
    lm.compile(sampler="greedy", jit_compile=True)
    inputs = token_inputs(rng, [9, 4], [3, 1])
    first = new_tokens(lm, inputs)
    np.testing.assert_array_equal(new_tokens(lm, inputs), first)
    assert len(compiled) == 1
    one = {name: x[:1] for name, x in inputs.items()}
    np.testing.assert_array_equal(new_tokens(lm, one), first[:1])
    assert len(compiled) == 2


def test_a_step_writes_into_the_cache_that_it_got(rng, compiled, monkeypatch):
    lm = task(SMALL_CONFIG)
    lm.compile(sampler="greedy", jit_compile=True)
    seen, make = [], compiled_steps.kernels.compiled_step

    def watched(function, task):
        run = make(function, task)

        def call(memory, ids, cache, *others):
            outputs = run(memory, ids, cache, *others)
            seen.append((cache.past[0][0].data_ptr(), outputs[2].past[0][0].data_ptr()))
            return outputs

        return call

    monkeypatch.setattr(compiled_steps.kernels, "compiled_step", watched)
    new_tokens(lm, token_inputs(rng, [9], [1]))
    # The first call is recorded and run.
    assert len(seen) == 9 and all(before == after for before, after in seen)


def test_a_program_reads_the_weights_as_they_are(rng, compiled):
    lm, other = task(SMALL_CONFIG), T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG, seed=1))
    lm.compile(sampler="greedy", jit_compile=True)
    other.compile(sampler="greedy")
    inputs = token_inputs(rng, [9], [1])
    before = new_tokens(lm, inputs)
    lm.set_weights(other.get_weights())
    after = new_tokens(lm, inputs)
    assert len(compiled) == 1
    np.testing.assert_array_equal(after, new_tokens(other, inputs))
    assert (after != before).any()


def test_without_jit_compile_nothing_is(rng, compiled):
    lm = task(SMALL_CONFIG)
    new_tokens(lm, token_inputs(rng, [9], [1]))
    lm.compile(sampler="greedy", jit_compile=True, run_eagerly=True)
    new_tokens(lm, token_inputs(rng, [9], [1]))
    assert not compiled


def test_training_is_not_compiled(rng, compiled):
    lm = task(SMALL_CONFIG)
    lm.compile(sampler="greedy", optimizer="sgd", jit_compile=True)
    inputs = token_inputs(rng, [9, 4], [3, 3])
    labels = inputs["decoder_token_ids"]
    lm.fit(inputs, labels, verbose=0)
    lm.evaluate(inputs, labels, verbose=0)
    lm.predict(inputs, verbose=0)
    assert not compiled
