"""What a model will take of a device's memory: computed, and measured."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import CONFIG, TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import (
    AttentionConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
    interleave,
    presets,
)
from keras_t5gemma2.generation import batching, decoding
from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.weights import config_of, published_models
from keras_t5gemma2.planning.work import Work

IS_JAX = keras.config.backend() == "jax"


def num_bytes(variables):
    return sum(
        int(np.prod(v.shape)) * np.dtype(keras.backend.standardize_dtype(v.dtype)).itemsize
        for v in variables
    )


@pytest.mark.once
@pytest.mark.parametrize("name", published_models())
def test_weights_of_the_published_models(name):
    assert plan(name, Work()).weights == 2 * presets[name]["metadata"]["params"]
    assert plan(name, Work(dtype="mixed_bfloat16")).weights == 2 * plan(name, Work()).weights


@pytest.mark.once
@pytest.mark.parametrize("mode", ["fit", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_what_the_optimizer_keeps(mode, dtype):
    work = Work(mode, dtype=dtype, rank=3)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(CONFIG, dtype=dtype))
    if mode == "lora":
        lm.enable_lora(3)
    found = plan(CONFIG, work)
    assert found.weights == num_bytes(lm.weights)
    assert found.gradients == num_bytes(lm.trainable_variables) < found.weights
    for optimizer in (
        "adam",
        "adafactor",
        keras.optimizers.SGD(momentum=0.9),
        keras.optimizers.AdamW(use_ema=True, gradient_accumulation_steps=2),
    ):
        lm.compile(optimizer=keras.optimizers.get(optimizer))
        others = len(lm.optimizer.variables)
        lm.optimizer.build(lm.trainable_variables)
        want = num_bytes(lm.optimizer.variables[others:])
        got = plan(CONFIG, dataclasses.replace(work, optimizer=optimizer)).optimizer
        # Of each weight that Adafactor does not factor it keeps a number or two.
        assert abs(got - want) <= (16 * len(lm.weights) if optimizer == "adafactor" else 0)


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


@pytest.mark.once
def test_rows_are_shared_out():
    def of(mesh, batch_size):
        return plan(TEXT_CONFIG, Work("lora", batch_size=batch_size, mesh=mesh))

    assert of((4, 1), 7) == of((1, 1), 2)


@pytest.mark.once
def test_weights_are_shared_out_as_the_map_of_layouts_says():
    """Gradients, optimizer and adapters as the weights that they belong to."""

    def of(mode, mesh, fsdp=False):
        return plan("t5gemma2_4b_4b", Work(mode, mesh=mesh, fsdp=fsdp), text_only=True)

    whole, spread = of("fit", (1, 1)), of("fit", (2, 4), fsdp=True)
    for part in ("weights", "gradients", "optimizer"):
        assert 7.9 < getattr(whole, part) / getattr(spread, part) < 8.0
    # Of an adapter's two weights, one axis each is the kernel's, which one axis of the mesh cuts.
    whole, spread = of("lora", (1, 1)), of("lora", (2, 4), fsdp=True)
    assert 2 < whole.gradients / spread.gradients < 4
    assert spread.optimizer == 2 * spread.gradients
    config = config_of("t5gemma2_270m_270m", text_only=True)
    # The one key-value head is not cut.
    keys = sum(2 * a.head_dim * 640 * 2 for s in (config.encoder, config.decoder) for a in s.layers)
    whole, spread = (plan(config, Work(mesh=(1, n))).weights for n in (1, 4))
    assert spread > whole / 4 + keys * 3 / 4 and spread < whole / 4 + keys


@pytest.mark.once
def test_the_largest_batch():
    work = Work("lora", dtype="float32", encoder_length=64, decoder_length=32)
    memory = 50_000_000
    size = largest_batch(TEXT_CONFIG, work, memory)
    assert size > 8
    fits = [
        plan(TEXT_CONFIG, dataclasses.replace(work, batch_size=n)).fits(memory)
        for n in (size, size + 1 + size // 32)
    ]
    assert fits == [True, False]
    assert largest_batch(TEXT_CONFIG, work, plan(TEXT_CONFIG, work).weights) == 0


@pytest.mark.once
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "train"}, "mode='train'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"mesh": (2,)}, r"mesh=\(2,\)"),
        ({"dtype": "float31"}, "float31"),
    ],
)
def test_what_is_no_work(wrong, message):
    with pytest.raises(ValueError, match=message):
        Work(**wrong)


@pytest.mark.once
def test_images_need_a_tower():
    with pytest.raises(ValueError, match="images=2 and a model of text only"):
        plan(CONFIG, Work(images=2), text_only=True)


@pytest.mark.once
def test_the_tool(capsys):
    import plan as tool

    tool.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        [f"| {name}", mode] for name in published_models() for mode in ("inference", "fit", "lora")
    ]
    tool.main(["t5gemma2_4b_4b", "--mode", "inference", "--memory", "12", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["weights"] == 2 * presets["t5gemma2_4b_4b"]["metadata"]["params"]
    assert (row["fits"], row["largest_batch"]) == (False, 0)
    tool.main(["t5gemma2_tiny", "--mode", "lora", "--text-only"])
    assert "| t5gemma2_tiny | lora |" in capsys.readouterr().out


# Activations, which only JAX's compiler says ----------------------------------------------------


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
