"""How often tokens are used in texts, and in the words of languages."""

import builtins

import pytest
from tasks import TOKENIZER

from keras_t5gemma2.preprocessing import token_counts as module
from keras_t5gemma2.preprocessing.token_counts import language_counts, texts_in, token_counts
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer

pytestmark = pytest.mark.once

VOCABULARY = T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").loaded_vocabulary()


def test_texts_of_both_sides_count():
    assert texts_in("a") == ["a"]
    assert texts_in(["a", "b"]) == ["a", "b"]
    assert texts_in((["a", "b"], ["c", "d"])) == ["a", "c", "b", "d"]
    rows = [
        {"encoder_text": "a", "decoder_text": ["b", "c"]},
        {"encoder_text": "", "decoder_text": "d"},
    ]
    assert texts_in(rows) == ["a", "b", "c", "d"]
    assert texts_in({"question": ["a"]}, {"question": "encoder_text"}) == ["a"]


def test_tokens_are_counted_over_many_texts():
    vocabulary = TOKENIZER.loaded_vocabulary()
    texts = ["the cat", "the dog"] * 700
    counts = token_counts(vocabulary, texts)
    assert counts[vocabulary.token_to_id("the")] == 1400
    assert counts[vocabulary.token_to_id("▁cat")] == 700
    weighted = token_counts(vocabulary, texts, [0.5, 0.25] * 700)
    assert weighted[vocabulary.token_to_id("▁dog")] == 175
    assert weighted[vocabulary.token_to_id("the")] == 525


def test_words_of_languages_count_by_their_frequency(monkeypatch):
    """At the beginning of a text and behind a space, in small letters and with a capital one."""
    words = [{"the": 3.0, "ж": 1.0}, {"cat": 0.5}]
    monkeypatch.setattr(module, "_frequencies", lambda languages: words[: len(languages)])
    vocabulary = TOKENIZER.loaded_vocabulary()
    counts = language_counts(vocabulary, ["en"])
    assert counts[vocabulary.token_to_id("the")] == 0.75
    assert counts[vocabulary.token_to_id("▁the")] == 0.75
    assert counts[vocabulary.token_to_id("▁The")] == 0.75
    assert counts[vocabulary.token_to_id("<0xD0>")] == 4 * 0.25  # "ж" and "Ж"
    assert counts[vocabulary.token_to_id("▁cat")] == 0
    both = language_counts(vocabulary, ["en", "de"])
    assert both[vocabulary.token_to_id("▁cat")] == 1
    assert both[vocabulary.token_to_id("▁the")] == 0.75


def test_words_come_from_what_people_write(monkeypatch):
    monkeypatch.setattr(module, "_WORDS", 2000)
    counts = language_counts(VOCABULARY, ["de"])
    assert VOCABULARY.token_to_id("ü") in counts and VOCABULARY.token_to_id("ñ") not in counts
    both = language_counts(VOCABULARY, ["de", "es"])
    assert VOCABULARY.token_to_id("ñ") in both
    id = VOCABULARY.token_to_id("e")
    assert both[id] > counts[id] > counts[VOCABULARY.token_to_id("ü")]


def test_languages_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="must be among ar, bg, .*Received: 'xx'"):
        language_counts(VOCABULARY, ["en", "xx"])
    with pytest.raises(TypeError, match="list of codes.*languages='en'"):
        language_counts(VOCABULARY, "en")


def test_without_the_library_an_error_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "wordfreq":
            raise ImportError("No module named 'wordfreq'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install keras-t5gemma2\[languages\]"):
        language_counts(VOCABULARY, ["en"])
