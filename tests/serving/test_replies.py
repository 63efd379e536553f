"""Texts from tokens, and their form."""

import base64

import numpy as np
import pytest

from keras_t5gemma2 import T5Gemma2Tokenizer
from keras_t5gemma2.serving.replies import Replies, Spelling, Text, embeddings
from keras_t5gemma2.serving.tickets import Token

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def tokenizer():
    return T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")


def test_a_text_goes_on_behind_its_prompt(tokenizer):
    ids = [int(id) for id in tokenizer.tokenize("17 décembre 2026")]
    for place in range(len(ids)):
        text = Text(tokenizer, ids[:place], ())
        pieces = [text.add([id]) for id in ids[place:]] + [text.finish()]
        before = tokenizer.detokenize(ids[:place]) if place else ""
        assert before + "".join(pieces) == "17 décembre 2026"
    text = Text(tokenizer, ids, ("em", "20"))
    assert text.add(ids) + text.finish() == "17 déc" and text.count == len(ids)


def test_tokens_have_texts_and_bytes(tokenizer):
    spelling = Spelling(tokenizer)
    form = Replies("chat", "tiny", spelling)
    part = form.part(0, "seven", [Token(715, -0.5, ((715, -0.5), (1, -1.5)))])
    (token,) = part["logprobs"]["content"]
    assert (token["token"], bytes(token["bytes"]), token["logprob"]) == ("seven", b"seven", -0.5)
    assert [other["token"] for other in token["top_logprobs"]] == ["seven", "<eos>"]
    form = Replies("completion", "tiny", spelling)
    found = form.choice(0, "seven", [Token(715, -0.5, ((715, -0.5),))], "stop")["logprobs"]
    assert found["tokens"] == ["seven"] and found["top_logprobs"] == [{"seven": -0.5}]


def test_vectors_in_base64():
    vectors = np.array([[0.5, -1.25]], "float32")
    (row,) = embeddings(vectors, "base64", "tiny", 3)["data"]
    found = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
    np.testing.assert_array_equal(found, vectors[0])
