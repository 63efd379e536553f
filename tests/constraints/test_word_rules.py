"""Automata of words, kept for a vocabulary."""

import concurrent.futures
import sys

import pytest
from tasks import small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.constraints import word_rules
from keras_t5gemma2.constraints.word_rules import of_words

pytestmark = pytest.mark.once


def test_an_automaton_is_made_once():
    lm = small_task()
    assert of_words(lm, ("a",), ()) is of_words(small_task(), ("a",), ())
    assert of_words(lm, ("a",), ()) is not of_words(lm, (), ("a",))
    assert len(of_words(lm, ("a",), ()).classes) == lm.backbone.config.vocabulary_size


def test_without_a_tokenizer_there_is_none():
    bare = T5Gemma2Seq2SeqLM(small_task().backbone)
    with pytest.raises(ValueError, match="`stop` needs a preprocessor"):
        of_words(bare, ("a",), ())


def test_threads_share_what_is_kept(monkeypatch):
    """Each gets the automaton of its own words, though others push them out."""
    lm = small_task()
    monkeypatch.setattr(word_rules, "_MOST_RULES", 2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: of_words(lm, (str(n % 7),), ()), range(400)))
    finally:
        sys.setswitchinterval(before)
    assert all(automaton is not None for automaton in found)
