"""Generation whose keys and values are kept in int8."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops, tree
from tasks import tiny_task
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import BeamSearch, T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import batching, calls, compiled_steps, decoding
from keras_t5gemma2.kernels import KeyValues, Window


@pytest.fixture(scope="module")
def lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG), cache_dtype="int8")
    lm.compile(sampler="greedy")
    return lm


def generate(lm, inputs, **options):
    options = {"max_new_tokens": 9, "strip_prompt": True, "stop_token_ids": None, **options}
    return lm.generate(inputs, **options)["decoder_token_ids"][:, :9]


def numbers(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


# What it computes


@pytest.mark.once
@pytest.mark.parametrize(
    ("queries", "rows"),
    [(5, 6), *(pytest.param(*case, marks=pytest.mark.once) for case in [(5, 2), (11, 2), (11, 6)])],
)
def test_attention_is_that_over_what_the_numbers_stand_for(rng, queries, rows):
    def tensor(*shape):
        return ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))

    query = tensor(rows, 6, queries, 8)
    here = np.broadcast_to(np.arange(queries, dtype="int32"), (rows, queries))
    there = np.array([[0, 1, 2, 3, -1, -1, -1], [-1, 1, 2, 3, 4, 5, 6]], "int32")
    own = KeyValues(tensor(rows, 3, queries, 8), tensor(rows, 3, queries, 8), here)
    memory = KeyValues(tensor(2, 3, 7, 8), tensor(2, 3, 7, 8), there)

    def attend(is_plain):
        parts = []
        for kv, window in ((own, Window.causal(3)), (memory, Window())):
            kv = KeyValues(
                kernels.rounded(kv.keys),
                kernels.rounded(kv.values),
                ops.convert_to_tensor(kv.positions),
            )
            parts.append((kv.plain("float32") if is_plain else kv, window))
        return numbers(kernels.attend(query, ops.convert_to_tensor(here.copy()), parts, 0.3))

    np.testing.assert_allclose(attend(False), attend(True), **TOLERANCE["float32"])


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["projected", pytest.param("shared", marks=pytest.mark.once)])
def test_hidden_states_are_near_those_of_the_model(lm, rng, kind):
    arrays = batching.pad_rows(batching.rows_of_arrays(token_inputs(rng, (13, 7), (4, 2))), 5)
    inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}

    def hidden(inputs, dtype):
        memory = decoding.remember(lm.backbone, inputs, kind, dtype)
        cache, _ = decoding.prefill(lm.backbone, inputs, memory, cache_dtype=dtype)
        token_ids, length = inputs["decoder_token_ids"], inputs["decoder_token_ids"].shape[1]
        return decoding.step(lm.backbone, memory, token_ids, cache, length)[0]

    got, want = (
        numbers(kernels.compiled(lambda _, x, dtype=dtype: hidden(x, dtype), lm)((), inputs))
        for dtype in ("int8", "auto")
    )
    # 127 steps are to the largest of 8 numbers, and errors of tokens and numbers even out.
    assert 1e-4 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


# What it takes


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_a_byte_for_each_number_and_a_scale_for_each_token_and_head(rng, dtype):
    width, heads = 64, 2
    (attention,) = SMALL_CONFIG.decoder.layers
    attention = dataclasses.replace(attention, num_heads=4, num_kv_heads=heads, head_dim=width)
    stack = dataclasses.replace(SMALL_CONFIG.decoder, layers=(attention,) * 2)
    config = dataclasses.replace(SMALL_CONFIG, encoder=stack, decoder=stack)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype))
    lm.compile(sampler="greedy")
    arrays = batching.pad_rows(batching.rows_of_arrays(token_inputs(rng, (90, 7), (4, 2))), 7)

    def kept(cache_dtype):
        """Bytes of the keys and values of the memory and the cache."""
        lm.cache_dtype = cache_dtype
        inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
        memory, state = compiled_steps.start(lm.generator, inputs, calls.call_of(lm.generator))
        leaves = tree.flatten([memory.layers, state.cache.past])
        return sum(_bytes(leaf) for leaf in leaves)

    of_int8, of_model = kept("int8"), kept("auto")
    # 128 tokens of the encoder, 5 of the decoder's window; keys and values of two layers.
    count = 2 * 2 * 2 * heads * (128 + 5)
    assert of_int8 == count * (width + 4)
    assert of_model == count * width * (4 if dtype == "float32" else 2)


def _bytes(x):
    size = np.dtype(keras.backend.standardize_dtype(x.dtype)).itemsize
    return int(np.prod(x.shape)) * size


# Generation


@pytest.mark.once
def test_padding_and_other_rows_change_nothing(lm, rng):
    inputs = token_inputs(rng, (13, 7, 20), (1, 4, 12))
    together = generate(lm, inputs)
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        np.testing.assert_array_equal(generate(lm, alone)[0], together[row])


@pytest.mark.once
@pytest.mark.parametrize("kind", ["projected", "shared"])
def test_an_encoded_input_and_proposals_give_the_same(lm, rng, kind):
    inputs = token_inputs(rng, (13, 7), (3, 3))
    want = generate(lm, inputs, cross_attention_cache=kind)
    encoded = lm.encode(inputs, cross_attention_cache=kind)
    leaves = tree.flatten(encoded.memory)
    assert "int8" in {keras.backend.standardize_dtype(leaf.dtype) for leaf in leaves}
    np.testing.assert_array_equal(generate(lm, inputs, encoded=encoded), want)
    got = generate(lm, inputs, assistant="prompt_lookup", cross_attention_cache=kind)
    np.testing.assert_array_equal(got, want)


@pytest.mark.once
def test_a_stream_gives_the_same(lm, rng):
    inputs = token_inputs(rng, (13, 7), (3, 5))
    tokens = [[], []]
    for row, token in lm.stream(inputs, stop_token_ids=None, max_new_tokens=9):
        tokens[row].append(token)
    np.testing.assert_array_equal(tokens, generate(lm, inputs))


@pytest.mark.once
def test_beams_of_several_rows(rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG), cache_dtype="int8")
    inputs = token_inputs(rng, (13, 7), (3, 5))
    lm.compile(sampler=BeamSearch(num_beams=3))
    together = generate(lm, inputs)
    alone = generate(lm, {name: value[1:] for name, value in inputs.items()})
    np.testing.assert_array_equal(alone[0], together[1])


@pytest.mark.once
def test_one_beam_and_samples(lm, rng):
    inputs = token_inputs(rng, (13, 7), (3, 5))
    greedy = generate(lm, inputs)
    other = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG), cache_dtype="int8")
    other.compile(sampler=BeamSearch(num_beams=1))
    np.testing.assert_array_equal(generate(other, inputs), greedy)
    other.compile(sampler="random")
    assert generate(other, inputs, num_return_sequences=2).shape == (4, 9)


@pytest.mark.parametrize("kind", ["projected", pytest.param("shared", marks=pytest.mark.once)])
@pytest.mark.once
def test_scales_are_never_of_half_precision(rng, monkeypatch, kind):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG, "mixed_bfloat16"), cache_dtype="int8")
    lm.compile(sampler="greedy")
    dtypes, write = set(), kernels.write

    def spy(past, fresh, slots):
        dtypes.add(keras.backend.standardize_dtype(past.keys.scales.dtype))
        return write(past, fresh, slots)

    monkeypatch.setattr(kernels, "write", spy)
    generate(lm, token_inputs(rng, (13, 7), (3, 5)), cross_attention_cache=kind)
    assert dtypes == {"float32"}


# The option


def test_it_is_an_option_of_the_task(lm):
    assert tiny_task().get_config()["cache_dtype"] == "auto"
    assert lm.get_config()["cache_dtype"] == "int8"
    with pytest.raises(ValueError, match="cache_dtype='int4'"):
        lm.cache_dtype = "int4"
