"""Words of a text, and the tokens that begin them."""

import pytest

from keras_t5gemma2.preprocessing.words import first_tokens, joined_words, words_of


@pytest.mark.once
def test_words_stand_between_white_space_and_images():
    text = " Ada  wrote<image>it.\n"
    spans = words_of(text, "<image>")
    assert [text[start:end] for start, end in spans] == ["Ada", "wrote", "it."]
    assert words_of(None) == []


@pytest.mark.once
def test_words_of_a_list_may_hold_spaces():
    text, spans = joined_words(["New York", "is", "big"])
    assert [text[start:end] for start, end in spans] == ["New York", "is", "big"]
    with pytest.raises(TypeError, match="A list of words must hold strings. Received in row 3: 5"):
        joined_words(["a", 5], number=3)


@pytest.mark.once
@pytest.mark.parametrize(
    ("spans", "offsets", "want"),
    [
        ([(0, 3), (4, 9)], [(0, 3), (3, 9)], [0, 1]),  # a space begins the next token
        ([(0, 3), (4, 9)], [(0, 9)], [0, 0]),  # a token of two words
        ([(0, 1), (2, 3)], [(0, 1)], [0, -1]),  # what is cut off
        ([(1, 2)], [(0, 1), (1, 2)], [1]),  # a space that is a token of its own
        ([], [(0, 1)], []),
    ],
)
def test_the_first_token_holds_a_part_of_the_word(spans, offsets, want):
    assert first_tokens(spans, offsets) == want
