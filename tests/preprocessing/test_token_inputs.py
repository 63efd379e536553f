"""What a tokenizer takes: strings and ids, checked."""

import numpy as np
import pytest

from keras_t5gemma2.preprocessing.token_inputs import (
    check_ids,
    decode,
    is_row,
    strings_of_array,
    text_of,
    texts_of_inputs,
)

pytestmark = pytest.mark.once


class Letters:
    """A vocabulary of five letters."""

    def __len__(self):
        return 5

    def decode(self, ids):
        return "".join("abcde"[id] for id in ids)


def test_texts_are_strings_or_utf_8():
    assert texts_of_inputs(["ä", "ä".encode(), ""]) == ["ä", "ä", ""]
    with pytest.raises(TypeError, match=r"`inputs\[1\]` must be a string. Received: 3 \(int\)"):
        texts_of_inputs(["a", 3])
    for bad in (b"\xff", "\ud800"):
        with pytest.raises(ValueError, match="`x` must be valid Unicode"):
            text_of(bad, "`x`")


def test_arrays_of_strings_are_one_or_a_list():
    assert strings_of_array(np.array("ab")) == "ab"
    assert strings_of_array(np.array(["a", "bc"])) == ["a", "bc"]
    assert strings_of_array(np.array([b"a"], object)) == [b"a"]
    with pytest.raises(TypeError, match="`inputs` must be strings"):
        strings_of_array(np.array([1]))
    with pytest.raises(ValueError, match=r"an array of shape \(1, 2\)"):
        strings_of_array(np.array([["a", "b"]]))


def test_rows_are_sequences_and_arrays_with_an_axis():
    assert is_row([]) and is_row((1,)) and is_row(np.zeros(1))
    assert not is_row("ab") and not is_row(3) and not is_row(np.int32(3))


def test_ids_are_decoded_one_or_many():
    assert decode(Letters(), np.array([4, 0]), "`ids`") == "ea"
    assert decode(Letters(), np.array(2), "`ids`") == "c"
    assert decode(Letters(), np.array([]), "`ids`") == ""


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[1]], ValueError, r"`ids` must be a row of ids. Received: shape=\(1, 1\)"),
        ([1.0], TypeError, "`ids` must be integers. Received: dtype=float64"),
        ([0, 5], ValueError, "`ids` must be ids from 0 to 4. Received: id 5"),
        ([-1, 0], ValueError, "Received: id -1"),
    ],
    ids=str,
)
def test_other_ids_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        check_ids(Letters(), np.array(ids), "`ids`")
