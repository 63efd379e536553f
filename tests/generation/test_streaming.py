"""Streams against `generate`: the same text and random numbers, in pieces and on demand."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from tasks import TOKENIZER, tiny_task
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import decoding, streaming

TEXTS = {"encoder_text": ["the cat", "what is this", ""], "decoder_text": ["a dog", "", "the"]}


@pytest.fixture(scope="module")
def lm():
    return tiny_task(config=SMALL_CONFIG)


@pytest.fixture(scope="module")
def array_lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture
def chunks(monkeypatch):
    """Of each chunk, the tokens that it was asked for and the ids after it."""
    seen, make = [], streaming.program

    def watched(*args, **options):
        run = make(*args, **options)

        def call(*args):
            outputs = run(*args)
            steps = args[2]
            seen.append((int(steps), ops.convert_to_numpy(outputs[0])))
            return outputs

        return call

    monkeypatch.setattr(streaming, "program", watched)
    return seen


def joined(pieces, count):
    texts = [""] * count
    for row, piece in pieces:
        assert piece  # a piece of nothing is none
        texts[row] += piece
    return texts


# The same as `generate`


@pytest.mark.compiled
@pytest.mark.parametrize("strip_prompt", [False, True])
def test_pieces_joined_are_the_text(lm, strip_prompt):
    options = {"strip_prompt": strip_prompt, "max_new_tokens": 27}
    pieces = list(lm.stream(TEXTS, **options))
    assert joined(pieces, 3) == lm.generate(TEXTS, **options)
    assert len(pieces) > 30


@pytest.mark.once
def test_a_single_row_gives_strings(lm):
    inputs = {name: values[0] for name, values in TEXTS.items()}
    pieces = list(lm.stream(inputs, max_new_tokens=27))
    assert len(pieces) > 1
    assert "".join(pieces) == lm.generate(inputs, max_new_tokens=27, strip_prompt=True)


@pytest.mark.compiled
def test_the_default_length_is_that_of_generate(lm):
    assert joined(lm.stream(TEXTS), 3) == lm.generate(TEXTS, strip_prompt=True)


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["random", pytest.param("top_p", marks=pytest.mark.once)])
def test_random_samplers_draw_the_same(rng, sampler):
    """Over several chunks, and again in a second call, which goes on where the first ended."""
    inputs = token_inputs(rng, (13, 7), (1, 4))
    texts = []
    for method in ("generate", "stream"):
        lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
        kind = {
            "random": keras_hub.samplers.RandomSampler,
            "top_p": keras_hub.samplers.TopPSampler,
        }[sampler]
        lm.compile(sampler=kind(seed=3))
        texts.append([new_ids(lm, method, inputs, 12) for _ in range(2)])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def new_ids(lm, method, inputs, count):
    options = {"stop_token_ids": None, "max_new_tokens": count}
    ids = [[] for _ in inputs["decoder_token_ids"]]
    if method == "generate":
        outputs = lm.generate(inputs, strip_prompt=True, **options)
        masks = outputs["decoder_padding_mask"]
        return [r[m].tolist() for r, m in zip(outputs["decoder_token_ids"], masks, strict=True)]
    for row, id in lm.stream(inputs, **options):
        ids[row].append(id)
    return ids


@pytest.mark.once
def test_without_a_preprocessor_ids_come_in_turns(array_lm, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    pairs = list(array_lm.stream(inputs, stop_token_ids=None, max_new_tokens=3))
    assert [row for row, _ in pairs] == [0, 1, 0, 1, 0, 1]
    assert new_ids(array_lm, "generate", inputs, 3) == [
        [i for r, i in pairs if r == k] for k in (0, 1)
    ]
    whole = list(array_lm.stream(inputs, stop_token_ids=None, max_length=7, strip_prompt=False))
    want = array_lm.generate(inputs, stop_token_ids=None, max_length=7)["decoder_token_ids"]
    assert by_row(whole) == want.tolist()


def by_row(pairs):
    return [[id for row, id in pairs if row == which] for which in (0, 1)]


@pytest.mark.once
def test_rows_end_at_their_stop_tokens_and_the_loop_with_the_last(array_lm, chunks, monkeypatch):
    """In different chunks, and within them."""
    monkeypatch.setattr(streaming, "_MOST_STEPS", 3)
    monkeypatch.setattr(streaming, "_SECONDS", float("inf"))
    inputs = token_inputs(np.random.default_rng(1), (13, 7), (3, 9))
    free = new_ids(array_lm, "generate", inputs, 20)
    stops = free[0][6], free[1][2]
    pairs = list(array_lm.stream(inputs, stop_token_ids=stops, max_new_tokens=20))
    assert by_row(pairs) == [free[0][:7], free[1][:3]]
    assert asked(chunks) == [1, 2, 3, 3]
    assert (chunks[-1][1][0, 16:] >= 0).sum() == 7


# The work


def asked(chunks):
    return [steps for steps, _ in chunks]


@pytest.mark.once
def test_nothing_is_computed_that_nobody_asks_for(array_lm, rng, chunks):
    pairs = array_lm.stream(token_inputs(rng, (5,), (1,)), stop_token_ids=None, max_new_tokens=20)
    assert asked(chunks) == []
    next(pairs)
    assert asked(chunks) == [1]
    pairs.close()
    assert list(pairs) == []
    assert asked(chunks) == [1]


@pytest.mark.once
def test_chunks_grow_while_they_are_quick(array_lm, rng, chunks, monkeypatch):
    inputs = token_inputs(rng, (5,), (1,))
    options = {"stop_token_ids": None, "max_new_tokens": 13}
    monkeypatch.setattr(streaming, "_MOST_STEPS", 4)
    monkeypatch.setattr(streaming, "_SECONDS", float("inf"))
    quick = list(array_lm.stream(inputs, **options))
    assert asked(chunks) == [1, 2, 4, 4, 2]
    chunks.clear()
    monkeypatch.setattr(streaming, "_SECONDS", 0.0)
    assert list(array_lm.stream(inputs, **options)) == quick
    assert asked(chunks) == [1] * 13


def test_all_chunks_are_one_program(rng, monkeypatch):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    calls, step = [], decoding.step
    monkeypatch.setattr(decoding, "step", lambda *args: calls.append(1) or step(*args))
    inputs = token_inputs(rng, (5,), (1,))
    list(lm.stream(inputs, stop_token_ids=None, max_new_tokens=20))
    traced = len(calls)
    list(lm.stream(inputs, stop_token_ids=None, max_new_tokens=11))
    compiles = keras.config.backend() != "torch"
    assert len(calls) - traced == (0 if compiles else 11)


@pytest.mark.once
def test_another_sampler_is_another_program(rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    inputs = token_inputs(rng, (5,), (1,))
    ids = []
    for temperature in (1e-9, 50.0):
        lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=5, temperature=temperature))
        ids.append(new_ids(lm, "stream", inputs, 20))
    assert ids[0] != ids[1]


# Text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the cat", ["the", " cat", ""]),
        ("a é b", ["a", " ", "", "", "é b", ""]),
        ("é€", ["", "", "", "", "", "é€"]),
    ],
)
def test_characters_of_several_bytes_are_whole(text, pieces):
    writer = streaming.Writer(TOKENIZER)
    got = [writer.add(id) for id in TOKENIZER(text)]
    assert [*got, writer.finish()] == pieces


@pytest.mark.once
def test_any_ids_give_the_text_of_all(rng):
    """Broken bytes, special tokens among bytes, spaces: of every prefix, pieces are a prefix."""
    bytes_ = [TOKENIZER.token_to_id(f"<0x{b:02X}>") for b in (0x41, 0xC3, 0xA9, 0xF0, 0x9F, 0x80)]
    other = [*TOKENIZER.special_token_ids, *TOKENIZER(" the  cat\n\n"), *TOKENIZER("▁▁▁ dog")]
    for _ in range(300):
        ids = rng.choice([*bytes_, *bytes_, *other], size=12).tolist()
        writer, written = streaming.Writer(TOKENIZER), ""
        dropped = set(TOKENIZER.special_token_ids)
        for count, id in enumerate(ids, start=1):
            written += writer.add(id)
            for end in (ids, ids[:count]):
                kept = [i for i in end if i not in dropped]
                assert TOKENIZER.detokenize(kept).startswith(written)
        written += writer.finish()
        assert written == TOKENIZER.detokenize([i for i in ids if i not in dropped])


# Errors


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["beam", "contrastive"])
def test_samplers_of_whole_sequences(lm, sampler):
    other = T5Gemma2Seq2SeqLM(lm.backbone, lm.preprocessor)
    other.compile(sampler=sampler)
    name = type(other.sampler).__name__
    with pytest.raises(ValueError, match=f"sampler={name}"):
        other.stream("the cat")


@pytest.mark.once
def test_errors_of_generate_come_with_the_call(array_lm, rng):
    with pytest.raises(ValueError, match="preprocessor=None"):
        array_lm.stream(token_inputs(rng, (13,), (9,)))
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        array_lm.stream(token_inputs(rng, (5,), (3,)), stop_token_ids=None, max_new_tokens=0)


@pytest.mark.once
def test_ids_are_plain_numbers(array_lm, rng):
    inputs = token_inputs(rng, (5,), (1,))
    (row, id), *_ = array_lm.stream(inputs, stop_token_ids=None, max_new_tokens=3)
    assert (type(row), type(id)) == (int, int)
    assert not isinstance(id, np.integer)
