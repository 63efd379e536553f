"""Sentinels: tokens whose numbers count down."""

import pytest
from keras_hub_models import SPM

from keras_t5gemma2 import T5Gemma2Tokenizer
from keras_t5gemma2.vocabulary.sentinels import sentinels

pytestmark = pytest.mark.once


class Tokens:
    """As much of a tokenizer as sentinels are looked up in."""

    def __init__(self, *tokens):
        self.tokens, self.asked = tokens, []

    def loaded_vocabulary(self):
        return self

    def token_to_id(self, token):
        self.asked.append(token)
        return self.tokens.index(token) if token in self.tokens else None


def test_numbers_count_down_to_the_first_that_is_missing():
    """Where there is no next, tokens further down are none."""
    tokens = Tokens("<x11>", "<x10>", "<x9>", "<x7>", "<x6>")
    assert sentinels(tokens, "<x10>") == ("<x10>", "<x9>")
    assert sentinels(tokens, "<x7>") == ("<x7>", "<x6>")
    assert sentinels(Tokens("a1", "a0", "a-1"), "a1") == ("a1", "a0")
    assert sentinels(Tokens("3"), "3") == ("3",)


def test_the_first_is_the_published_one():
    tokenizer = T5Gemma2Tokenizer(SPM)
    found = sentinels(tokenizer)
    assert found == sentinels(tokenizer, "<unused6237>") and found[0] == "<unused6237>"
    assert all(tokenizer.token_to_id(token) is not None for token in found)


def test_a_vocabulary_is_asked_once():
    tokens = Tokens("<x1>", "<x0>")
    first = sentinels(tokens, "<x1>")
    asked = len(tokens.asked)
    assert sentinels(tokens, "<x1>") is first and len(tokens.asked) == asked
    assert sentinels(Tokens("<x1>"), "<x1>") == ("<x1>",)


@pytest.mark.parametrize("first", ["<unused>", "<unused9999>", "<a1b2>", "", "<x9>"])
def test_a_first_sentinel_that_is_none_is_an_error(first):
    tokens = Tokens("<unused>", "<a1b2>", "")
    for _ in range(2):  # also of what was looked up before
        with pytest.raises(ValueError, match=f"Received: '{first}'"):
            sentinels(tokens, first)
