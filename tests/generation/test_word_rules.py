"""Automata of words, kept for a vocabulary."""

import pytest
from tasks import small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation.word_rules import of_words

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
