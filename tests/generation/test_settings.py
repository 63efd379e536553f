"""Settings of a call, from `generate` and `stream` on."""

import re

import keras
import keras_hub
import numpy as np
import pytest
import torch
from keras import ops
from scipy import stats
from tasks import small_task, tiny_task
from transformers.generation import logits_process as reference

from keras_t5gemma2 import BeamSearch, T5Gemma2Seq2SeqLM, constraints
from keras_t5gemma2.generation import decoding

IS_COMPILED = keras.config.backend() != "torch"
ROWS = ["the cat", "what is in the garden"]


@pytest.fixture(scope="module")
def lm():
    return tiny_task(vision=False)


def new_ids(lm, inputs, **options):
    options = {"max_new_tokens": 6, "stop_token_ids": None, "verbose": 0, **options}
    found = lm.generate(inputs, return_scores=True, **options).token_ids
    return [ids.tolist() for ids in found] if isinstance(found, list) else found.tolist()


# One program


def test_all_settings_are_inputs_of_one_program(monkeypatch):
    lm = small_task()
    calls, step = [], decoding.step
    monkeypatch.setattr(decoding, "step", lambda *args: calls.append(1) or step(*args))
    options = {"max_new_tokens": 6, "verbose": 0, "stop_token_ids": None}
    lm.generate(ROWS, temperature=0.7, **options)
    traced = len(calls)
    for settings in (
        {"temperature": [0.0, 2.0], "top_k": 3, "seed": 5},
        {"top_p": 0.5, "min_p": [0.1, 0.2], "repetition_penalty": 1.2},
        {"no_repeat_ngram_size": 2, "stop": ["e", "the"], "bad_words": "a"},
        {"repetition_penalty": 1.5},
    ):
        lm.generate(ROWS, **settings, **options)
    assert not IS_COMPILED or len(calls) == traced


@pytest.mark.once
def test_exponents_of_beams_are_inputs_too():
    lm = small_task()
    for penalty in (0.5, 2.0, None):
        lm.generate("the cat", num_beams=2, length_penalty=penalty, max_new_tokens=4)
        keys = [key[0] for key in lm.generator.programs._by_key]  # of shapes too, if compiled
        names = [key if isinstance(key, str) else key[0] for key in keys]
        assert names.count("generate") == 1


# What is drawn


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"temperature": 2.0, "top_k": 4}, marks=pytest.mark.once),
        pytest.param({"top_p": 0.4, "temperature": 3.0}, marks=pytest.mark.once),
    ],
)
def test_first_tokens_come_as_often_as_in_the_reference(lm, settings):
    logits = []
    found = lm.generate(
        "the cat",
        num_return_sequences=2000,
        max_new_tokens=1,
        seed=7,
        return_scores=True,
        logits_processor=lambda ids, x: logits.append(x) or x,
        **settings,
    )
    prompt = {"encoder_text": ["the cat"], "decoder_text": [""]}
    x, _, _ = lm.preprocessor(prompt | {"decoder_text": ["a"]})
    logits = np.array(ops.convert_to_numpy(lm(x))[0, 0])
    chain = [reference.TemperatureLogitsWarper(settings["temperature"])]
    chain += [reference.TopKLogitsWarper(settings["top_k"])] if "top_k" in settings else []
    chain += [reference.TopPLogitsWarper(settings["top_p"])] if "top_p" in settings else []
    scores = torch.tensor(logits)[None]
    for process in chain:
        scores = process(None, scores)
    want = scores.softmax(-1)[0].double().numpy()
    counts = np.bincount([ids[0] for ids in found.token_ids], minlength=len(want))
    want /= want.sum()
    assert not counts[want == 0].any()
    often = want * 2000 >= 5
    counts, want = ([*x[often], x[~often].sum()] for x in (counts, 2000 * want))
    is_there = np.array(want) > 0
    pvalue = stats.chisquare(np.array(counts)[is_there], np.array(want)[is_there]).pvalue
    assert pvalue > 1e-3


@pytest.mark.once
def test_draws_of_a_row_are_its_own(lm):
    alone = new_ids(lm, ROWS[0], temperature=3.0, seed=5)
    both = new_ids(lm, ROWS, temperature=3.0, seed=5)
    assert both[0] == alone != both[1]
    assert new_ids(lm, ROWS, temperature=3.0, seed=[5, 6]) == [
        alone,
        new_ids(lm, ROWS[1], temperature=3.0, seed=6),
    ]
    several = new_ids(lm, ROWS[0], temperature=3.0, seed=5, num_return_sequences=3)
    assert several[0] == alone and len({*map(tuple, several)}) == 3


@pytest.mark.once
def test_without_a_seed_draws_follow_the_global_one(lm):
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        drawn.append([new_ids(lm, ROWS[0], temperature=3.0) for _ in range(2)])
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]


@pytest.mark.once
def test_temperature_zero_is_the_greedy_text(lm):
    greedy = new_ids(lm, ROWS)
    assert new_ids(lm, ROWS, temperature=0) == greedy == new_ids(lm, ROWS, top_k=1, seed=3)
    assert new_ids(lm, ROWS, seed=3) == greedy
    mixed = new_ids(lm, ROWS, temperature=[50.0, 0.0])
    assert mixed[0] != greedy[0] and mixed[1] == greedy[1]


@pytest.mark.once
def test_samplers_of_keras_hub_keep_their_settings_beside_others():
    lm = tiny_task(vision=False, sampler=keras_hub.samplers.TopKSampler(k=1))
    greedy = new_ids(lm, ROWS)
    assert new_ids(lm, ROWS, seed=9) == greedy
    lm.compile(sampler=keras_hub.samplers.TopPSampler(p=1e-9))
    assert new_ids(lm, ROWS, seed=9) == greedy
    lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=2, temperature=3.0))
    assert new_ids(lm, ROWS, seed=9) == new_ids(lm, ROWS, temperature=3.0, seed=9) != greedy
    drawn = new_ids(lm, ROWS, no_repeat_ngram_size=1)
    lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=2, temperature=3.0))
    assert new_ids(lm, ROWS, no_repeat_ngram_size=1) == drawn


# Repetitions, words, ends


@pytest.mark.once
def test_runs_do_not_come_again(lm):
    ids = new_ids(lm, ROWS, no_repeat_ngram_size=1, max_new_tokens=12)
    assert all(len({*row}) == len(row) for row in ids)


@pytest.mark.compiled
def test_texts_end_before_a_string_across_tokens(lm):
    text = lm.generate(ROWS[0], max_new_tokens=12, stop_token_ids=None)
    stop = re.search("[a-z][a-z ]", text[3:])[0]  # random weights write bytes, too
    want = text[: text.index(stop)]
    found = lm.generate(
        ROWS[0], max_new_tokens=12, stop_token_ids=None, stop=stop, return_scores=True
    )
    assert found.texts == want and found.finished
    tokens = lm.preprocessor.tokenizer.detokenize(found.token_ids.tolist())
    assert stop in tokens
    pieces = list(lm.stream(ROWS[0], max_new_tokens=12, stop_token_ids=None, stop=stop))
    assert "".join(pieces) == want


@pytest.mark.once
def test_the_prompt_is_no_place_for_a_stop(lm):
    inputs = {"encoder_text": [ROWS[0]], "decoder_text": ["a dog"]}
    texts = lm.generate(inputs, max_new_tokens=5, stop_token_ids=None, stop="dog")
    assert texts[0].startswith("a dog")


@pytest.mark.once
def test_words_are_not_written(lm):
    text = lm.generate(ROWS[0], max_new_tokens=12, stop_token_ids=None)
    pairs = {text[start : start + 2] for start in range(len(text) - 2)}
    # That sign stands for bytes that are no character, and is none that was written.
    words = sorted(pair for pair in pairs if "\N{REPLACEMENT CHARACTER}" not in pair)[:4]
    assert words
    for word in words:
        for options in ({}, {"num_beams": 2}, {"temperature": 5.0, "seed": 1}):
            found = lm.generate(
                ROWS[0], max_new_tokens=12, stop_token_ids=None, bad_words=[word], **options
            )
            assert word not in found


@pytest.mark.once
def test_processors_change_logits_and_have_a_program_each(lm):
    def only_nine(ids, logits):
        return ops.where(ops.arange(logits.shape[1]) == 9, logits, float("-inf"))

    assert new_ids(lm, ROWS, logits_processor=[only_nine]) == [[9] * 6] * 2
    assert new_ids(lm, ROWS, logits_processor=only_nine, num_beams=2) == [[9] * 6] * 2
    assert new_ids(lm, ROWS, logits_processor=[lambda ids, x: x]) == new_ids(lm, ROWS)


# Beams


@pytest.mark.once
def test_beams_of_a_call_are_those_of_a_sampler(lm):
    found = [new_ids(lm, ROWS, num_beams=3, length_penalty=p) for p in (1.0, 0.0)]
    for penalty, ids in zip((1.0, 0.0), found, strict=True):
        lm.compile(sampler=BeamSearch(3, length_penalty=penalty))
        assert new_ids(lm, ROWS) == ids
    lm.compile(sampler="greedy")
    assert new_ids(lm, ROWS, num_beams=1) == new_ids(lm, ROWS)


@pytest.mark.once
def test_a_row_may_have_all_of_its_beams(lm):
    best = new_ids(lm, ROWS, num_beams=3)
    every = new_ids(lm, ROWS, num_beams=3, num_return_sequences=3)
    assert every[::3] == best and len({*map(tuple, every[:3])}) == 3
    with pytest.raises(ValueError, match="num_return_sequences=4"):
        new_ids(lm, ROWS, num_beams=3, num_return_sequences=4)


# Streams


@pytest.mark.once
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 3.0, "seed": 4, "repetition_penalty": 1.4},
        pytest.param({"no_repeat_ngram_size": 1, "bad_words": "e"}, marks=pytest.mark.once),
    ],
)
def test_a_stream_gives_the_text_of_generate(lm, settings):
    options = {"max_new_tokens": 9, "stop_token_ids": None, **settings}
    texts = ["", ""]
    for row, piece in lm.stream(ROWS, **options):
        texts[row] += piece
    assert texts == lm.generate(ROWS, **options)


# Errors


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "`temperature` must be a number at least 0, or one for each row"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": [1.0, 2.0, 3.0]}, "one for each of the 2 rows"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"min_p": 2}, "min_p=2"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1"),
        ({"seed": -5}, "seed=-5"),
        ({"num_beams": [2, 3]}, "`num_beams` must be an integer. Received"),
        ({"num_beams": 2, "top_p": 0.5}, "`top_p` does not go with beams"),
        ({"length_penalty": 2.0}, "`length_penalty` needs beams"),
        ({"stop": ""}, "at least one character"),
        ({"stop": 3}, "`stop` must be a string or a list of strings"),
        ({"bad_words": [["a"]]}, "`bad_words` must be"),
        ({"logits_processor": [3]}, "list of functions"),
        ({"return_scores": 1}, "`return_scores` must be True or False"),
        ({"num_return_sequences": 2, "temperature": 0}, "needs a sampler that draws"),
        ({"assistant": "prompt_lookup", "temperature": 2.0}, "`assistant` goes with `stop`"),
        (
            {"assistant": "prompt_lookup", "constraint": constraints.choice(["a"])},
            "Received: constraint=...",
        ),
        ({"do_sample": True}, "make a call draw"),
        ({"stop_strings": ["a"]}, "Did you mean `stop`?"),
        ({"eos_token_id": 1}, "Did you mean `stop_token_ids`?"),
        ({"max_tokens": 5}, "Did you mean `max_new_tokens`?"),
        ({"temprature": 1.0}, "Did you mean `temperature`?"),
    ],
)
def test_what_is_wrong_is_refused(lm, options, message):
    with pytest.raises((TypeError, ValueError)) as error:
        lm.generate(ROWS, **{"max_new_tokens": 2, **options})
    assert message in str(error.value)


@pytest.mark.once
def test_streams_have_no_beams_and_no_scores(lm):
    with pytest.raises(ValueError, match="sampler=BeamSearch"):
        lm.stream(ROWS, num_beams=2)
    for name in ("return_scores", "num_return_sequences", "assistant", "batch_size"):
        with pytest.raises(TypeError, match=f"`stream` has no argument `{name}`"):
            lm.stream(ROWS, **{name: 2})


@pytest.mark.once
def test_strings_need_a_tokenizer(lm):
    bare = T5Gemma2Seq2SeqLM(lm.backbone)
    with pytest.raises(ValueError, match="`bad_words` needs a preprocessor"):
        bare.generate({}, bad_words=["a"], stop_token_ids=None)


@pytest.mark.once
def test_samplers_of_their_own_loop_take_no_words(lm):
    other = tiny_task(vision=False, sampler=keras_hub.samplers.BeamSampler(num_beams=2))
    other.generator._sampler = keras_hub.samplers.BeamSampler(num_beams=2)
    with pytest.raises(ValueError, match="`bad_words` needs a sampler"):
        other.generate(ROWS, bad_words=["a"], max_new_tokens=2)
    with pytest.raises(ValueError, match="`constraint` needs a sampler"):
        other.generate(ROWS, constraint=constraints.grammar('start: "a"'), max_new_tokens=2)


@pytest.mark.once
def test_an_assistant_takes_strings_that_stop(lm):
    text = lm.generate(ROWS[0], max_new_tokens=12, stop_token_ids=None)
    stop = re.search("[a-z][a-z ]", text[3:])[0]
    found = lm.generate(
        ROWS[0], max_new_tokens=12, stop_token_ids=None, stop=stop, assistant="prompt_lookup"
    )
    assert found == text[: text.index(stop)]
