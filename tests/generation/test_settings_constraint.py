"""Texts under a constraint: with random weights each parses, or was cut by its budget."""

import json
import re

import keras
import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2 import constraints
from keras_t5gemma2.generation import decoding

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "age"],
}
PATTERNS = [r"[0-9]{4}-[0-9]{2}", r"(yes|no|maybe)", r"\w{2,5}", r"a.*b", r"(the|a) [a-z]+", r"☃+"]


@pytest.fixture(scope="module")
def lm():
    return tiny_task(vision=False)


def drawn(lm, constraint, **options):
    options = {"max_new_tokens": 24, "temperature": 2.0, "return_scores": True, **options}
    return lm.generate("the cat", constraint=constraint, **options)


def is_allowed_json(text):
    value = json.loads(text)
    assert set(value) <= set(SCHEMA["properties"]) and {"name", "age"} <= set(value)
    assert len(value["name"]) <= 5 and 0 <= value["age"] <= 150
    assert value.get("kind") in ("cat", "dog", None)
    assert len(value.get("tags", [])) <= 2


@pytest.mark.compiled
@pytest.mark.parametrize(
    "pattern", [PATTERNS[0], *(pytest.param(p, marks=pytest.mark.once) for p in PATTERNS[1:])]
)
def test_texts_match_their_pattern(lm, pattern):
    found = drawn(lm, constraints.regex(pattern), num_return_sequences=6, seed=1)
    assert sum(found.finished) >= 3
    for text, is_finished in zip(found.texts, found.finished, strict=True):
        assert not is_finished or re.fullmatch(pattern, text), text


@pytest.mark.once
def test_json_parses_and_obeys_its_schema(lm):
    found = drawn(
        lm, constraints.json_schema(SCHEMA), num_return_sequences=10, seed=2, max_new_tokens=96
    )
    assert all(found.finished)
    for text in found.texts:
        is_allowed_json(text)


@pytest.mark.once
def test_a_short_budget_leads_to_an_end_unless_it_must_not(lm):
    for steer in (True, False):
        constraint = constraints.regex("[a-z]{3,}x", steer=steer)
        found = drawn(lm, constraint, num_return_sequences=8, seed=3, max_new_tokens=9)
        assert all(found.finished) if steer else not all(found.finished)


@pytest.mark.once
def test_no_control_token_is_written(lm):
    tokenizer = lm.preprocessor.tokenizer
    found = drawn(lm, constraints.regex("(?s).*"), num_return_sequences=8, seed=4)
    control = {*tokenizer.special_token_ids, tokenizer.token_to_id("<unk>")}
    control |= {tokenizer.start_of_turn_token_id, tokenizer.end_of_turn_token_id}
    for ids in found.token_ids:
        assert not control & {*ids[:-1].tolist()}


@pytest.mark.once
@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, pytest.param({"temperature": 0}, marks=pytest.mark.once)]
)
def test_beams_and_greedy_texts_obey_too(lm, options):
    options = {"temperature": None, **options}
    found = drawn(lm, constraints.choice(["a dog", "a cat", "the garden"]), **options)
    assert found.texts in ("a dog", "a cat", "the garden") and found.finished


@pytest.mark.once
def test_a_choice_is_the_likeliest_token_by_token(lm):
    options = ["a dog", "a cat", "the garden"]
    logits = lambda ids, x: x  # noqa: E731
    greedy = lm.generate("the cat", constraint=constraints.choice(options), max_new_tokens=8)
    scores = drawn(lm, constraints.choice(options), temperature=0).log_probs
    assert greedy in options and np.isfinite(scores).all() and logits(0, 1) == 1


@pytest.mark.once
def test_pieces_of_a_stream_obey_as_well(lm):
    constraint = constraints.regex("[a-z]{4}")
    options = {"constraint": constraint, "temperature": 2.0, "seed": 5, "max_new_tokens": 9}
    assert "".join(lm.stream("the cat", **options)) == lm.generate("the cat", **options)


@pytest.mark.once
def test_with_anything_allowed_the_text_is_the_free_one(lm):
    options = {"max_new_tokens": 8, "stop_token_ids": None}
    prompts = ["the cat", "the dog", "a cat", "a dog", "what?", "here?"]
    free = dict(zip(prompts, lm.generate(prompts, **options), strict=True))
    found = lm.generate(prompts, constraint=constraints.regex("(?s).*"), **options)
    # Bytes that are no character fit no constraint: up to there the texts are the same.
    whole = [text.partition("\N{REPLACEMENT CHARACTER}")[0] for text in free.values()]
    assert any(whole)
    for text, other in zip(whole, found, strict=True):
        assert other.startswith(text)


@pytest.mark.once
def test_constraints_of_a_size_share_a_program(monkeypatch):
    lm = tiny_task(vision=False)
    calls, step = [], decoding.step
    monkeypatch.setattr(decoding, "step", lambda *args: calls.append(1) or step(*args))
    options = {"max_new_tokens": 6, "verbose": 0}
    lm.generate("the cat", constraint=constraints.choice(["a dog", "a cat"]), **options)
    traced = len(calls)
    lm.generate("the cat", constraint=constraints.regex("[0-9]{3}"), temperature=2.0, **options)
    assert keras.config.backend() == "torch" or len(calls) == traced


@pytest.mark.once
def test_what_is_no_constraint_is_refused(lm):
    with pytest.raises(TypeError, match=r"constraint='\[0-9\]'"):
        lm.generate("the cat", constraint="[0-9]")
