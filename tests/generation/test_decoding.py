"""The device's side of generation: what is kept of an input and a prompt, and a token further."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import batching, decoding


@pytest.fixture(scope="module")
def lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    return lm


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "adapter"),
    [(4, 2, False), pytest.param(3, 1, True, marks=pytest.mark.once)],
)
def test_shared_memory_gives_the_projected_hidden_states(rng, num_heads, num_kv_heads, adapter):
    (attention,) = SMALL_CONFIG.decoder.layers
    attention = dataclasses.replace(attention, num_heads=num_heads, num_kv_heads=num_kv_heads)
    decoder = dataclasses.replace(SMALL_CONFIG.decoder, layers=(attention,) * 2)
    config = dataclasses.replace(SMALL_CONFIG, decoder=decoder)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config))
    if adapter:
        lm.enable_lora(rank=3, use_dora=True)
        for variable in lm.trainable_variables:
            variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    lm.compile(sampler="greedy")
    arrays = batching.pad_rows(batching.rows_of_arrays(token_inputs(rng, (13, 7), (4, 2))), 5)
    inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}

    def hidden(inputs, kind):
        memory = decoding.remember(lm.backbone, inputs, kind)
        cache, _ = decoding.prefill(lm.backbone, inputs, memory)
        prompt = ops.concatenate([inputs["decoder_token_ids"], inputs["new_token_ids"]], axis=1)
        index = inputs["decoder_token_ids"].shape[1]
        return decoding.step(lm.backbone, memory, prompt, cache, index)[0]

    got, want = (
        ops.convert_to_numpy(
            kernels.compiled(lambda _, x, kind=kind: hidden(x, kind), lm)((), inputs)
        )
        for kind in ("shared", "projected")
    )
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


def test_auto_shares_where_keys_and_values_would_be_large(lm, rng, monkeypatch):
    inputs = token_inputs(rng, (13, 7), (1, 1))
    small = batching.pad_encoder(batching.rows_of_arrays(inputs))
    small = {name: ops.convert_to_tensor(value) for name, value in small.items()}
    remember = kernels.compiled(lambda _, x: decoding.remember(lm.backbone, x, "auto"), lm)
    assert not remember((), small).shared
    monkeypatch.setattr(decoding, "_MAX_PROJECTED_BYTES", 10)
    remember = kernels.compiled(lambda _, x: decoding.remember(lm.backbone, x, "auto"), lm)
    assert remember((), small).shared


@pytest.mark.once
def test_sharing_hangs_on_the_bytes_of_keys_and_values():
    config = SMALL_CONFIG.decoder  # one layer of 3 key heads of 8: 48 numbers a token
    tokens = decoding._MAX_PROJECTED_BYTES // (48 * 2)
    assert not decoding.is_shared("auto", config, 1, tokens, itemsize=2)
    assert decoding.is_shared("auto", config, 1, tokens + 1, itemsize=2)
    assert decoding.is_shared("auto", config, 3, tokens // 2, itemsize=2)
    assert decoding.is_shared("shared", config, 1, 1, 1)
    assert not decoding.is_shared("projected", config, 9, tokens, 4)


@pytest.mark.once
def test_several_tokens_read_at_once_are_those_read_one_by_one(lm, rng):
    arrays = batching.pad_rows(batching.rows_of_arrays(token_inputs(rng, (13, 7), (4, 2))), 5)
    inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
    prompt = inputs["decoder_token_ids"]
    length = prompt.shape[1]
    following = ops.convert_to_tensor(rng.integers(10, 100, size=(2, 3)), dtype="int32")
    memory = decoding.remember(lm.backbone, inputs)
    cache, states = decoding.prefill(lm.backbone, inputs, memory, ahead=2)
    assert states is None
    whole = ops.concatenate([prompt, following], axis=1)
    wanted = []
    for index in range(length, length + 4):
        hidden, cache = decoding.step(lm.backbone, memory, whole, cache, index)
        wanted.append(ops.convert_to_numpy(hidden))
    cache, _ = decoding.prefill(lm.backbone, inputs, memory, ahead=2)
    _, cache = decoding.step(lm.backbone, memory, whole, cache, length)
    first = ops.convert_to_tensor(length, dtype="int32")
    got, _ = decoding.read(lm.backbone, memory, following, cache, first)
    np.testing.assert_allclose(
        ops.convert_to_numpy(got).swapaxes(0, 1), wanted[1:], **TOLERANCE["float32"]
    )


@pytest.mark.once
def test_a_prompt_of_the_start_token_alone_fills_no_cache(lm, rng):
    arrays = batching.pad_rows(batching.rows_of_arrays(token_inputs(rng, (5,), (1,))), 5)
    inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
    memory = decoding.remember(lm.backbone, inputs)
    cache, _ = decoding.prefill(lm.backbone, inputs, memory)
    assert all((ops.convert_to_numpy(there) == -1).all() for there in cache.positions.values())
    _, states = decoding.prefill(lm.backbone, inputs, memory, keep_states=True)
    assert tuple(states.shape) == (1, 1 + 32, 28)
    assert (
        ops.convert_to_numpy(states)[0, 0].any() and not ops.convert_to_numpy(states)[0, 1:].any()
    )
