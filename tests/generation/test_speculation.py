"""Speculative decoding against the greedy sampler: the same tokens, in fewer steps."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tasks import tiny_task
from tiny_models import SMALL_CONFIG, TEXT_CONFIG, VISION, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import batching, cache, calls, decoding, speculation
from keras_t5gemma2.generation.compiled_steps import start


def greedy(config=TEXT_CONFIG, seed=0):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, seed=seed))
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture(scope="module")
def lm():
    return greedy()


@pytest.fixture(scope="module")
def assistants(lm):
    """One that is nearly always right, one that is nearly always wrong, and none at all."""
    noisy = greedy(seed=0)
    noise = np.random.default_rng(1)
    for weight in noisy.backbone.decoder.weights:
        weight.assign(weight.numpy() + 0.02 * noise.normal(size=weight.shape))
    return {"near": noisy, "far": greedy(SMALL_CONFIG, seed=5), "lookup": "prompt_lookup"}


@pytest.fixture
def reads(monkeypatch, lm):
    """Of each reading of the model itself, how many tokens."""
    counts, make = [], speculation.program

    def counted(generator, *args, **options):
        run = make(generator, *args, **options)
        if generator is not lm.generator:
            return run
        return lambda *args: counts.append(args[2].shape[1]) or run(*args)

    monkeypatch.setattr(speculation, "program", counted)
    return counts


# The same text


@pytest.mark.once
@pytest.mark.parametrize("name", ["lookup", "far", "near"])
def test_the_tokens_are_those_of_the_greedy_sampler(lm, assistants, name, rng, reads):
    """Past several windows; a prompt of one token and one that is longer than a ring."""
    inputs = token_inputs(rng, (13, 21), (1, 11))
    options = {"stop_token_ids": None, "max_new_tokens": 30}
    want = lm.generate(inputs, **options)
    got = lm.generate(inputs, assistant=assistants[name], **options)
    np.testing.assert_array_equal(got["decoder_token_ids"], want["decoder_token_ids"])
    np.testing.assert_array_equal(got["decoder_padding_mask"], want["decoder_padding_mask"])
    assert max(reads) > 1
    right = 60 - len(reads)  # each reading gives one token, and one for each right proposal
    assert right > 20 if name == "near" else right < 30 if name == "far" else right > 0


@pytest.mark.once
def test_a_perfect_assistant_saves_all_steps_but_one_in_five(lm, rng, reads, monkeypatch):
    inputs = token_inputs(rng, (13,), (4,))
    options = {"stop_token_ids": None, "max_new_tokens": 30}
    want = lm.generate(inputs, **options)["decoder_token_ids"]
    tokens = want[0].tolist()
    monkeypatch.setattr(
        speculation._Lookup, "next", lambda self, ids, last: tokens[len(ids) : len(ids) + 7]
    )
    got = lm.generate(inputs, assistant="prompt_lookup", **options)
    np.testing.assert_array_equal(got["decoder_token_ids"], want)
    assert reads == [8, 8, 8, 8]  # 30 tokens, of which the last has no proposal of its own


@pytest.mark.once
def test_a_row_ends_at_its_stop_token_and_its_length(lm, assistants, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    free = lm.generate(inputs, stop_token_ids=None, max_new_tokens=30)["decoder_token_ids"]
    stop = (int(free[0, 12]),)
    for options in ({"max_new_tokens": 30}, {"max_length": 11}):
        want = lm.generate(inputs, stop_token_ids=stop, **options)
        got = lm.generate(inputs, stop_token_ids=stop, assistant=assistants["near"], **options)
        np.testing.assert_array_equal(got["decoder_token_ids"], want["decoder_token_ids"])


@pytest.mark.once
def test_text(rng):
    lm = tiny_task(config=SMALL_CONFIG)
    inputs = {"encoder_text": ["the cat", "what is this"], "decoder_text": ["a dog", ""]}
    options = {"max_new_tokens": 12}
    assert lm.generate(inputs, assistant="prompt_lookup", **options) == lm.generate(
        inputs, **options
    )


@pytest.mark.once
def test_wrong_tokens_leave_nothing_behind(lm, rng):
    """Logits, to rounding, where tokens alone would hide small differences."""
    inputs = token_inputs(rng, (13,), (36,))
    want = lm.predict_on_batch(lm.backbone.complete(inputs))[0]
    ids = inputs["decoder_token_ids"][0]
    rows = batching.rows_of_arrays(inputs)
    arrays = batching.pad_rows(rows._replace(prompts=[ids[:9]]), new_tokens=30)
    memory, state = start(
        lm.generator,
        keras.tree.map_structure(ops.convert_to_tensor, arrays),
        calls.call_of(lm.generator),
        7,
    )
    state = state.cache

    def reading(state, memory, tokens, first):
        tokens, first = (ops.convert_to_tensor(x, dtype="int32") for x in (tokens, first))
        state = cache.unfolded(state)
        hidden, state = decoding.read(lm.backbone, memory, tokens, state, first)
        return lm.logits(hidden), cache.folded(state)

    read, here = kernels.compiled(reading, lm), 8  # the last token of the prompt
    padding = arrays["decoder_token_ids"].shape[1] - 9
    for right in (1, 3, 8, 1, 2, 5):
        tokens = (ids[here : here + 8] + (np.arange(8) >= right) * 3) % 101
        first = np.array(here + padding, "int32")
        logits, state = read(state, memory, tokens[None].astype("int32"), first)
        got = ops.convert_to_numpy(logits)[0, :right]
        np.testing.assert_allclose(got, want[here : here + right], **TOLERANCE["float32"])
        here += right


def test_rings_have_room_for_what_may_prove_wrong():
    assert cache.slot_counts(TEXT_CONFIG.decoder, 300, ahead=7) == [12, 307]


# Proposals


@pytest.mark.once
@pytest.mark.parametrize(
    ("ids", "own", "want"),
    [
        ([2, 8, 9, 4, 2], 1, [8, 9, 4]),  # the start: what the encoder starts with
        ([7, 8, 1, 6, 8, 3, 7, 8], 2, [1, 6, 8]),  # two tokens agree there, one elsewhere
        ([7, 8, 1, 7, 8, 3, 7, 8], 2, [3, 7, 8]),  # the later of two
        ([7, 8, 1, 9, 8, 3, 7, 8], 1, [3, 7, 8]),  # of its own there is one token to go by
        ([5, 5], 1, [5]),
        ([5, 6], 1, []),
        ([5], 1, []),
    ],
)
def test_look_up(ids, own, want):
    assert speculation.look_up(np.array(ids), own, most=3) == want


class Recorder:
    """Stands for a model's cache; proposes 100, 101, ..."""

    def __init__(self, ids):
        self.slots = dict(enumerate(ids))

    def read(self, ids, first):
        self.slots.update(enumerate(ids, start=first))
        return [100 + first + i for i in range(len(ids))]


@pytest.mark.once
def test_an_assistant_has_read_all_that_was_accepted():
    """After none, some and all of its tokens were right."""
    ids = [5, 6, 7]
    assistant = speculation._Assistant.__new__(speculation._Assistant)
    assistant._reader, assistant._is_new = Recorder(ids[:-1]), True
    for right in (0, 2, 4, 1, 4, 4):
        proposed = assistant.next(ids, len(ids) - 1)
        slots = assistant._reader.slots
        assert [slots[i] for i in range(len(ids))] == ids
        assert proposed == [99 + len(ids) + i for i in range(4)]
        ids = [*ids, *proposed[:right], 50 + right]


# Errors


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["top_k", "beam"])
def test_other_samplers(lm, rng, sampler):
    other = T5Gemma2Seq2SeqLM(lm.backbone)
    other.compile(sampler=sampler)
    name = type(other.sampler).__name__
    with pytest.raises(ValueError, match=f"sampler={name}"):
        other.generate(
            token_inputs(rng, (5,), (1,)),
            stop_token_ids=None,
            max_new_tokens=3,
            assistant="prompt_lookup",
        )


@pytest.mark.once
@pytest.mark.parametrize("assistant", ["lookup", 3])
def test_what_is_no_assistant(lm, rng, assistant):
    with pytest.raises(ValueError, match=f"assistant={assistant!r}"):
        lm.generate(
            token_inputs(rng, (5,), (1,)),
            stop_token_ids=None,
            max_new_tokens=3,
            assistant=assistant,
        )


@pytest.mark.once
def test_another_vocabulary(lm, rng):
    other = greedy(dataclasses.replace(SMALL_CONFIG, vocabulary_size=103))
    with pytest.raises(ValueError, match="103 tokens for one of 101"):
        lm.generate(
            token_inputs(rng, (5,), (1,)), stop_token_ids=None, max_new_tokens=3, assistant=other
        )


@pytest.mark.once
def test_an_assistant_that_cannot_see(rng):
    config = dataclasses.replace(SMALL_CONFIG, vision=VISION)
    options = {"stop_token_ids": None, "max_new_tokens": 3}
    inputs = token_inputs(rng, (9,), (1,), images=1)
    with pytest.raises(ValueError, match=r"1 of shape \(28, 28, 3\) for .* takes None"):
        greedy(config).generate(inputs, assistant=greedy(SMALL_CONFIG), **options)
    inputs["images"] = inputs["images"][:, :0]
    seeing = greedy(config)
    want = seeing.generate(inputs, **options)["decoder_token_ids"]
    got = seeing.generate(inputs, assistant=greedy(SMALL_CONFIG), **options)["decoder_token_ids"]
    np.testing.assert_array_equal(got, want)
