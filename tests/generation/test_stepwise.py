"""Texts of grammars, step by step: equal to those of a program where an automaton can say it."""

import json
import re

import numpy as np
import pytest
from tasks import small_task, tiny_task

from keras_t5gemma2 import constraints

ROWS = ["the cat", "what is in the garden"]
WORD = "[a-z]{2,4}x?"
NESTED = 'start: "a" start "b" | "c" start "d" | /[x-z]{1,2}/'
TREE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["v", "kids"],
}


@pytest.fixture(scope="module")
def lm():
    return tiny_task(vision=False)


def found(lm, constraint, inputs=ROWS, **options):
    options = {"max_new_tokens": 8, "return_scores": True, "verbose": 0, **options}
    made = lm.generate(inputs, constraint=constraint, **options)
    ids = [ids.tolist() for ids in made.token_ids]
    return ids, made.texts, made.finished


def is_nested(text):
    before, inner, after = re.fullmatch("([ac]*)([x-z]*)(.*)", text).groups()
    ends = "".join({"a": "b", "c": "d"}[char] for char in before[::-1])
    return after == ends and 1 <= len(inner) <= 2


def test_texts_nest_and_are_the_same_on_each_backend():
    options = {"temperature": 3.0, "seed": 3, "max_new_tokens": 12, "verbose": 0}
    texts = small_task().generate(ROWS, constraint=constraints.grammar(NESTED), **options)
    assert texts == ["y", "caxzbd"] and all(map(is_nested, texts))


@pytest.mark.once
def test_a_grammar_gives_the_tokens_of_an_automaton():
    lm = small_task()
    options = {"temperature": 2.0, "seed": 3, "max_new_tokens": 6}
    want = found(lm, constraints.regex(WORD, steer=False), **options)
    assert found(lm, constraints.grammar(f"start: /{WORD}/"), **options) == want


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 3.0, "num_return_sequences": 3, "seed": 1},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5},
        {"temperature": 2.0, "seed": 4, "stop": "e", "repetition_penalty": 1.3},
        {"temperature": 2.0, "seed": 5, "bad_words": ["a", "e"]},
        {"batch_size": 1, "seed": 2, "temperature": [0.0, 4.0]},
    ],
)
def test_settings_do_what_they_do_beside_an_automaton(lm, options):
    # It never has to end, so that beams of both end by the end token.
    want = found(lm, constraints.regex("[a-z]+", steer=False), **options)
    assert found(lm, constraints.grammar("start: /[a-z]+/"), **options) == want


@pytest.mark.once
def test_texts_nest_or_are_cut_by_their_budget(lm):
    options = {"temperature": 2.0, "num_return_sequences": 30, "seed": 2, "max_new_tokens": 8}
    _, texts, finished = found(lm, constraints.grammar(NESTED), "the cat", **options)
    assert sum(finished) >= 15
    assert any(len(text) > 4 for text in texts) and not all(finished)
    for text, is_finished in zip(texts, finished, strict=True):
        assert is_nested(text) if is_finished else not is_nested(text), text


@pytest.mark.once
def test_beams_nest(lm):
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 24}
    _, texts, finished = found(lm, constraints.grammar(NESTED), "the cat", **options)
    assert all(finished) and len({*texts}) == 4 and all(map(is_nested, texts))


@pytest.mark.once
def test_a_recursive_schema_gives_json(lm):
    jsonschema = pytest.importorskip("jsonschema")
    options = {"temperature": 2.0, "num_return_sequences": 16, "seed": 1, "max_new_tokens": 96}
    _, texts, finished = found(lm, constraints.json_schema(TREE), "the cat", **options)
    assert sum(finished) >= 8
    values = [json.loads(text) for text, ended in zip(texts, finished, strict=True) if ended]
    for value in values:
        jsonschema.validate(value, TREE)
        assert {*value} == {"v", "kids"}
    assert any(value["kids"] for value in values)


@pytest.mark.once
def test_a_short_budget_leaves_a_text_unfinished(lm):
    _, texts, finished = found(lm, constraints.grammar('start: "x" "x" "x" "y"'), max_new_tokens=3)
    assert finished == [False, False] and texts == ["xxx", "xxx"]


@pytest.mark.once
def test_without_stop_tokens_a_text_ends_with_its_grammar(lm):
    made = found(lm, constraints.grammar('start: "the" " " "cat"'), stop_token_ids=None)
    assert made[1:] == (["the cat", "the cat"], [True, True])
    with pytest.raises(ValueError, match="needs stop tokens with beams.*num_beams=2"):
        found(lm, constraints.grammar('start: "a"'), stop_token_ids=None, num_beams=2)


@pytest.mark.once
def test_streams_and_chats_obey(lm):
    constraint = constraints.grammar(NESTED)
    options = {"constraint": constraint, "temperature": 2.0, "seed": 5, "max_new_tokens": 20}
    texts = ["", ""]
    for row, piece in lm.stream(ROWS, **options):
        texts[row] += piece
    assert texts == lm.generate(ROWS, **options) and all(map(is_nested, texts))
    messages = [{"role": "user", "content": "the cat"}]
    assert is_nested(lm.chat(messages, **options))
    assert is_nested("".join(lm.chat(messages, stream=True, **options)))


@pytest.mark.once
def test_encoded_rows_and_prompts_of_the_decoder(lm):
    constraint, options = constraints.grammar(NESTED), {"max_new_tokens": 20, "temperature": 0}
    rows = {"encoder_text": ROWS, "decoder_text": ["a dog", ""]}
    want = lm.generate(rows, constraint=constraint, strip_prompt=True, **options)
    encoded = lm.encode(ROWS)
    made = lm.generate(
        {"decoder_text": rows["decoder_text"]},
        encoded=encoded,
        constraint=constraint,
        strip_prompt=True,
        **options,
    )
    assert made == want and all(map(is_nested, want))


@pytest.mark.once
def test_where_no_token_is_allowed_the_text_is_cut(lm):
    for constraint in (constraints.grammar('start: "cat"'), constraints.choice(["cat"])):
        _, texts, finished = found(lm, constraint, bad_words="at", temperature=2.0, seed=1)
        assert not any(finished) and all("cat".startswith(text) for text in texts)


@pytest.mark.once
def test_broken_weights_are_said(lm):
    other = small_task()
    weight = other.backbone.decoder.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(ValueError, match="new token 1 of row 0 are not finite"):
        found(other, constraints.grammar(NESTED))
