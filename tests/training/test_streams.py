"""Batches of data sets that are read as they come."""

import keras
import numpy as np
import pytest

from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.training.streams import PyDatasetBatches, StreamBatches, check_no_batch_size

pytestmark = pytest.mark.once


class Taken:
    """In the place of a `Preparation`: gives what it was called with."""

    columns = Columns()

    def __call__(self, x, y=None, sample_weight=None, place=()):
        if x == ["bad"]:
            raise ValueError("a bad text")
        return x, place


def batches(stream, batch_size=None):
    return StreamBatches(stream, batch_size, Taken())


def texts_of(batches):
    return [x for x, _ in batches]


def test_rows_are_put_together_and_batches_are_not():
    found = batches(["a", "b", "c"], 2)
    assert found.is_of_rows and found.num_batches == 2 and found.first()[0] == ["a"]
    assert texts_of(found) == [["a", "b"], ["c"]]
    found = batches([["a", "b"], ["c"]])
    assert not found.is_of_rows and found.num_batches == 2
    assert texts_of(found) == [["a", "b"], ["c"]]
    assert batches(["a"]).batch_size == 32
    with pytest.raises(ValueError, match="batch_size=2, and x of type list"):
        batches([["a", "b"]], 2)


def test_places_are_the_epoch_and_the_batch():
    found = batches([["a"], ["b"]])
    found.epoch = 3
    assert [place for _, place in found] == [(3, 0), (3, 1)]


def test_what_can_be_read_once_is_kept_until_keras_has_built():
    """It builds with a first batch, ends an epoch, and begins anew."""
    found = batches(iter("abc"), 1)
    assert found.is_read_once and not found.can_be_read_ahead
    assert next(iter(found))[0] == ["a"]
    found.on_epoch_end()
    assert texts_of(found) == [["a"], ["b"], ["c"]]
    found.on_epoch_end()
    with pytest.raises(ValueError, match="nothing left of it for another epoch"):
        list(found)


def test_what_can_be_read_again_is():
    found = batches(["a", "b"], 1)
    assert texts_of(found) == texts_of(found) == [["a"], ["b"]]


def test_errors_name_the_batch():
    with pytest.raises(ValueError, match="In batch 1: a bad text"):
        list(batches([["a"], ["bad"]]))
    with pytest.raises(ValueError, match="must not be empty. Received: a list_iterator"):
        batches(iter([]))


def test_an_unknown_or_endless_length_is_none():
    class Endless:
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            return iter([["a"]])

        def __len__(self):
            if self.count is None:
                raise TypeError("infinite")
            return self.count

    assert batches(Endless(None)).num_batches is None
    assert batches(Endless(2**62)).num_batches is None
    assert batches(Endless(7)).num_batches == 7


def test_a_py_dataset_is_prepared_batch_by_batch():
    class Texts(keras.utils.PyDataset):
        ends = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return ["bad"] if index == 2 else [f"text {index}"]

        def on_epoch_end(self):
            self.ends += 1

    dataset = Texts()
    found = PyDatasetBatches(dataset, False, Taken())
    found.epoch = 2
    assert found.num_batches == 3
    assert found.first() == (["text 0"], (2, 0))
    found.dataset.on_epoch_end()
    assert dataset.ends == 1
    with pytest.raises(ValueError, match="In batch 2: a bad text"):
        found.dataset[2]


def test_a_batch_size_is_left_out_where_there_are_batches():
    check_no_batch_size(None, np.zeros(3))
    with pytest.raises(ValueError, match="batch_size=4, and x of type ndarray"):
        check_no_batch_size(4, np.zeros(3))
