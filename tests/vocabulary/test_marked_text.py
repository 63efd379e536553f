"""Words that are spelled like control tokens, marked and read as text."""

import pytest
from preprocessors import TOKENIZER

from keras_t5gemma2.vocabulary.marked_text import ids_of_marked, mark_for, marked, unmarked

pytestmark = pytest.mark.once
VOCABULARY = TOKENIZER.loaded_vocabulary()
TOKENS = VOCABULARY.control_tokens


def test_mark_for_is_in_no_text():
    first = mark_for("")
    assert mark_for(f"a{first}") not in (f"a{first}", first)


@pytest.mark.parametrize(
    "text", ["", "cat", "<eos>", "a <", "<eos", "<eos><bos> <end_of_turn", "<<eos>"]
)
def test_marks_are_taken_out_again(text):
    mark = mark_for(text)
    assert unmarked(marked(text, TOKENS, mark), mark) == text


def test_a_mark_stands_behind_the_first_character():
    assert marked("<eos> <eo", frozenset({"<eos>"}), "|") == "<|eos> <|eo"
    assert marked("<eos> eos <b>", frozenset({"<eos>"}), "|") == "<|eos> eos <b>"
    assert marked("a <eo \n", frozenset({"<eos>"}), "|") == "a <|eo \n"


def test_ids_without_marks_are_those_of_the_text():
    text = "<bos>the cat <end_of_turn>\n\n what <"
    assert ids_of_marked(VOCABULARY, text, "") == TOKENIZER.tokenize(text)
    assert ids_of_marked(VOCABULARY, text, mark_for(text)) == TOKENIZER.tokenize(text)


def test_a_mark_that_was_not_needed_changes_nothing():
    text = "<bos>the cat 1 <"
    found = ids_of_marked(VOCABULARY, marked(text, frozenset({"<eos>"}), "|"), "|")
    assert found == TOKENIZER.tokenize(text)


def test_marked_words_are_merged_with_the_text_around_them():
    """As a text whose only difference is a token that the vocabulary does not know."""
    found = ids_of_marked(VOCABULARY, "<bos>the cat<|eos>house<eos>", "|")
    parts = [TOKENIZER.tokenize(part) for part in ("<bos>the cat<", "eos>house<eos>")]
    assert found == [*parts[0], *parts[1]]
