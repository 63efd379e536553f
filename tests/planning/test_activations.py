"""What a model holds beside its weights: the cache as it is, the rest as compilers say."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import (
    AttentionConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
    interleave,
)
from keras_t5gemma2.generation import batching, decoding
from keras_t5gemma2.planning.activations import of_head
from keras_t5gemma2.planning.plan import plan
from keras_t5gemma2.planning.weights import config_of
from keras_t5gemma2.planning.work import Work

IS_JAX = keras.config.backend() == "jax"


def num_bytes(variables):
    return sum(
        int(np.prod(v.shape)) * np.dtype(keras.backend.standardize_dtype(v.dtype)).itemsize
        for v in variables
    )


@pytest.mark.once
@pytest.mark.parametrize("kind", ["projected", "shared"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache(kind, dtype):
    """Against the arrays that a generation begins with."""
    backbone = tiny_backbone(TEXT_CONFIG, dtype=dtype)
    prompts = [np.ones(1, "int32")] * 3
    rows = batching.Rows([np.ones(70, "int32")] * 3, [np.ones(70, bool)] * 3, prompts, {})
    inputs = {n: ops.convert_to_tensor(x) for n, x in batching.pad_rows(rows, 40).items()}
    memory = decoding.remember(backbone, inputs, kind)
    cache, _ = decoding.prefill(backbone, inputs, memory)
    arrays = {id(x): x for x in keras.tree.flatten((memory, cache.past, cache.positions))}
    work = Work(
        dtype=dtype,
        **{"encoder_length": 70, "decoder_length": 40, "batch_size": 3},
        cross_attention_cache=kind,
    )
    assert plan(TEXT_CONFIG, work).cache == num_bytes(arrays.values())


@pytest.mark.once
def test_auto_shares_the_cache_of_what_is_large():
    def cache(kind, length):
        work = Work(encoder_length=length, batch_size=1, cross_attention_cache=kind)
        return plan("t5gemma2_4b_4b", work).cache

    for length, kind in ((4096, "projected"), (131_072, "shared")):
        assert cache("auto", length) == cache(kind, length)
    # 17 GiB of keys and values at full length, as published sizes make them.
    assert 17.0 < cache("projected", 131_072) / 2**30 < 17.2


def sized(hidden_dim, mlp_dim, layers, heads=4, kv_heads=1, width=32, vocabulary=2048):
    local = AttentionConfig(heads, kv_heads, width, window=64)
    full = dataclasses.replace(local, window=None)
    stack = StackConfig(hidden_dim, mlp_dim, interleave(local, full, layers, period=2))
    return dataclasses.replace(
        TEXT_CONFIG, vocabulary_size=vocabulary, encoder=stack, decoder=stack
    )


def measured_training(config, work):
    """Bytes that the compiled step of a training holds beside its inputs and outputs."""
    import jax

    backbone = T5Gemma2Backbone(config, work.dtype, work.gradient_checkpointing)
    lm = T5Gemma2Seq2SeqLM(backbone)
    if work.mode == "lora":
        lm.enable_lora(work.rank)
    lm.compile(optimizer="adam")
    lm.optimizer.build(lm.trainable_variables)
    states = lm._get_jax_state(True, True, True, True)
    data = backbone.complete(arrays(work)), np.ones((work.rows, work.decoder_length), "int32")
    program = jax.jit(lm.train_step, donate_argnums=0).lower(states, data).compile()
    return program.memory_analysis().temp_size_in_bytes


def measured_generation(config, work):
    import jax

    lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config, work.dtype))
    lm.cross_attention_cache = work.cross_attention_cache
    lm.compile(sampler="greedy")
    prompts = [np.ones(1, "int32")] * work.rows
    ids = [np.ones(work.encoder_length, "int32")] * work.rows
    rows = batching.Rows(ids, [i.astype(bool) for i in ids], prompts, {})
    inputs = batching.pad_rows(rows, work.decoder_length)

    def generate(values, inputs):
        with keras.StatelessScope(state_mapping=zip(lm.variables, values, strict=True)):
            return lm.generate_step(inputs)

    values = [variable.value for variable in lm.variables]
    program = jax.jit(generate).lower(values, inputs).compile()
    return program.memory_analysis().temp_size_in_bytes


def arrays(work):
    shapes = {"encoder": work.encoder_length, "decoder": work.decoder_length}
    return {
        f"{stack}_{name}": np.ones((work.rows, length), "int32")
        for stack, length in shapes.items()
        for name in ("token_ids", "padding_mask")
    }


# Activations, which only JAX's compiler says.
BASE = {"hidden_dim": 128, "mlp_dim": 256, "layers": 2}


LONG = {"dtype": "float32", "encoder_length": 1024, "decoder_length": 64, "batch_size": 4}


SLOW = [{"mlp_dim": 1024}, {"hidden_dim": 384}, {"heads": 12}]


@pytest.mark.slow
@pytest.mark.skipif(not IS_JAX, reason="JAX's compiler says what a program takes")
@pytest.mark.parametrize(
    ("sizes", "checkpointing"),
    [({}, True), *(pytest.param(s, False, marks=pytest.mark.slow) for s in ({}, *SLOW))],
    ids=str,
)
def test_activations_of_training(sizes, checkpointing):
    work = Work("lora", rank=4, gradient_checkpointing=checkpointing, **LONG)
    config = sized(**{**BASE, **sizes})
    found = plan(config, work)
    want = measured_training(config, work)
    np.testing.assert_allclose(found.activations + found.gradients, want, rtol=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not IS_JAX, reason="JAX's compiler says what a program takes")
@pytest.mark.parametrize(
    "sizes", [{}, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)], ids=str
)
def test_activations_of_generation(sizes):
    work = Work(cross_attention_cache="projected", **LONG)
    config = sized(**{**BASE, **sizes})
    found = plan(config, work)
    want = measured_generation(config, work)
    np.testing.assert_allclose(found.activations + found.cache, want, rtol=0.25)


@pytest.mark.once
def test_a_screened_head_takes_a_quarter_of_a_table_in_float32():
    config = config_of("t5gemma2_270m_270m", text_only=True)
    table = 262_144 * 640
    float32 = Work("inference", dtype="float32")
    assert of_head(config, float32) == table + 3 * 4 * 262_144
    kept = dataclasses.replace
    assert of_head(config, kept(float32, head="exact")) == 0
    assert of_head(config, kept(float32, decoder_length=32)) == 0
    assert of_head(config, kept(float32, batch_size=8)) == 0
    assert of_head(config, kept(float32, batch_size=8, head="screened")) > table
    assert of_head(config, kept(float32, mesh=(1, 2), head="screened")) == 0
    assert of_head(config, kept(float32, dtype="bfloat16")) == 0
    assert of_head(config, kept(float32, dtype="bfloat16", head="screened")) > table
    assert of_head(config, kept(float32, dtype="mixed_bfloat16", head="screened")) == 0
    assert plan(config, float32).total - plan(config, kept(float32, head="exact")).total > table
    with pytest.raises(ValueError, match=r"`head` must be one of .*head='fast'"):
        Work(head="fast")
