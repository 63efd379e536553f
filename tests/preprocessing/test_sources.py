"""Data sets that are iterated: what they are, what their elements are, and all rows of one."""

import keras
import numpy as np
import pytest

from keras_t5gemma2.preprocessing import sources
from keras_t5gemma2.preprocessing.columns import Columns

pytestmark = pytest.mark.once
ARRAYS = {"decoder_token_ids": np.ones((2, 3), "int32"), "scalar": np.ones(2)}


class Counted:
    """An iterable that says how long it is, or why it does not know."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(["a"])

    def __len__(self):
        if isinstance(self.count, Exception):
            raise self.count
        return self.count


class Texts(keras.utils.PyDataset):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_streams_are_what_has_no_rows_in_memory():
    for stream in (iter("ab"), (x for x in "ab"), Texts(["a"])):
        assert sources.is_stream(stream)
    for rows in ("a", ["a"], ("a", "b"), {"encoder_text": ["a"]}, np.array(["a"]), 3):
        assert not sources.is_stream(rows)


def test_elements_of_what_has_no_end_are_refused():
    assert list(sources.elements_of(Counted(1))) == ["a"]
    assert list(sources.elements_of(Counted(TypeError("unknown")))) == ["a"]
    assert list(sources.elements_of(Texts(["a"], ["b"]))) == [["a"], ["b"]]
    for count in (TypeError("is infinite"), OverflowError(), 2**62):
        with pytest.raises(ValueError, match="Received: an endless Counted"):
            sources.elements_of(Counted(count))


def test_a_tuple_is_a_pair_unless_one_of_it_is_a_single_text():
    assert sources.is_pair((["a"], ["b"])) and sources.is_pair((["a"], ["b"], [1.0]))
    assert not sources.is_pair(("a", "b")) and not sources.is_pair((["a"],))
    assert not sources.is_pair([["a"], ["b"]])


@pytest.mark.parametrize(
    ("x", "want"),
    [
        ("a", True),
        (["a"], False),
        ({"encoder_text": "a"}, True),
        ({"encoder_text": None, "decoder_text": ["a"]}, False),
        ({"question": "a"}, False),
        ({"decoder_token_ids": np.ones(3)}, True),
        (ARRAYS, False),
        (np.array("a"), True),
    ],
    ids=str,
)
def test_a_row_has_no_batch_axis(x, want):
    assert sources.is_row(x) == want
    renamed = sources.is_row({"question": "a"}, Columns({"question": "encoder_text"}))
    assert renamed


def test_a_list_is_a_batch_and_a_tuple_x_and_y():
    rows = [{"encoder_text": "a"}, {"encoder_text": "b"}]
    assert sources.unpack(rows) == (rows, None, None)
    assert sources.unpack(["a", "b"]) == (["a", "b"], None, None)
    assert sources.unpack((["a"], ["b"])) == (["a"], ["b"], None)


def test_rows_of_a_stream_are_numbered_through_and_errors_name_the_batch():
    rows, is_single = sources.read_rows(iter([["a", "b"], "c"]))
    assert not is_single
    assert [(row.encoder_text, row.number) for row in rows] == [("a", 0), ("b", 1), ("c", 2)]
    assert sources.read_rows("a")[1] and not sources.read_rows((["a"], ["b"]), reads_y=True)[1]
    assert sources.read_rows((["a"], ["b"]), reads_y=True)[0][0].decoder_text == "b"
    with pytest.raises(TypeError, match="In batch 1: `encoder_text` must be a string"):
        sources.read_rows(iter([["a"], [3]]))
    with pytest.raises(ValueError, match="Received: an empty data set"):
        sources.read_rows(iter([]))


def test_arrays_of_batches_are_joined_and_shorter_ones_filled_up():
    assert sources.read_arrays(ARRAYS) is ARRAYS
    longer = {"decoder_token_ids": np.full(4, 2), "scalar": np.array(3.0)}
    found = sources.read_arrays(iter([ARRAYS, longer]))
    assert found["decoder_token_ids"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [2, 2, 2, 2]]
    assert found["scalar"].tolist() == [1, 1, 3]
    assert sources.read_arrays(iter([["a"]])) == ["a"]  # whoever reads it says what it must be
    with pytest.raises(ValueError, match="an empty data set"):
        sources.read_arrays(iter([]))
