"""Rows in memory: their order, their batches, and rows that are read when they are asked for."""

import itertools

import keras
import numpy as np
import pytest
from resumed_runs import run
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.rows import Row
from keras_t5gemma2.training.in_memory import (
    InMemoryBatches,
    NumberedRows,
    has_numbered_rows,
    rows_in_memory,
)
from keras_t5gemma2.training.preparation import Preparation

pytestmark = pytest.mark.once


def numbers(x, y, weights, indices, place):
    return indices.tolist()


def batches(count, batch_size, shuffle=False):
    """Batches of the numbers of rows, as nothing prepares them."""
    indices = np.arange(count)
    return InMemoryBatches(lambda i: (i, None, None), indices, batch_size, shuffle, numbers)


def test_the_order_of_rows_hangs_on_the_seed_and_the_epoch():
    """And on nothing that is drawn in between: for a validation, say."""

    def losses(seed=0, **options):
        keras.utils.set_random_seed(seed)
        return run(small_task(), epochs=2, **options)

    plain = losses()
    np.testing.assert_array_equal(plain, losses(validation_data=SMALL_ROWS))
    assert np.abs(np.subtract(plain, losses(seed=1))).max() > 1e-3


def test_the_last_batch_may_be_smaller():
    found = batches(5, 2)
    assert list(found) == [[0, 1], [2, 3], [4]] and found.num_batches == 3
    assert found.first() == [0, 1]
    assert batches(40, None).batch_size == 32


def test_each_epoch_has_an_order_of_its_own_that_comes_again():
    found = batches(9, 4, shuffle=True)
    orders = []
    for epoch in (0, 1, 0):
        found.epoch = epoch
        orders.append(list(found))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(itertools.chain(*orders[1])) == list(range(9))


def test_a_split_takes_the_last_rows_which_keep_their_order():
    train, validation = batches(10, 3, shuffle=True).split(0.2, None, numbers)
    assert sorted(itertools.chain(*train)) == list(range(8))
    assert list(validation) == [[8, 9]]
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"validation_split={share} of 10 rows"):
            batches(10, 3).split(share, None, None)


def preparation(targets="one"):
    lm = small_task()
    return Preparation(lm.preprocessor, lm.backbone.config, targets=targets)


def test_rows_in_memory_are_checked_and_have_lengths():
    take, indices, lengths = rows_in_memory(SMALL_ROWS, None, [1.0, 0.5], preparation())
    rows, y, weights = take(indices[1:])
    assert rows == [Row(SMALL_ROWS["encoder_text"][1], [], SMALL_ROWS["decoder_text"][1], 1)]
    assert y is None and weights.tolist() == [0.5]
    assert lengths == [(0, 7 + 5), (0, 21 + 21)]
    with pytest.raises(ValueError, match=r"of shape \(3,\) and 2 rows"):
        rows_in_memory(SMALL_ROWS, None, [1.0] * 3, preparation())


def test_a_row_for_each_target_takes_the_weight_of_its_row():
    rows = {"encoder_text": ["a", "b"], "decoder_text": [["one", "two"], "three"]}
    take, indices, _ = rows_in_memory(rows, None, [2.0, 3.0], preparation("each"))
    found, _, weights = take(indices)
    assert [row.decoder_text for row in found] == ["one", "two", "three"]
    assert weights.tolist() == [2.0, 2.0, 3.0]


def test_numbered_rows_are_read_when_they_are_asked_for():
    read = []

    class Source:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            read.append(index)
            return {"encoder_text": f"text {index}", "decoder_text": "a dog"}

    rows = NumberedRows(Source(), np.arange(4.0), preparation("each"))
    assert read == []
    found, y, weights = rows(np.array([3, 1]))
    assert read == [3, 1] and y is None and weights.tolist() == [3.0, 1.0]
    assert [(row.encoder_text, row.number) for row in found] == [("text 3", 3), ("text 1", 1)]
    with pytest.raises(ValueError, match="an empty data set"):
        NumberedRows([], None, preparation("each"))


def test_sources_of_dicts_or_pairs_have_numbered_rows():
    class Numbered:
        def __init__(self, item):
            self.item = item

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.item

    for item, want in (({"encoder_text": "a"}, True), (("a", "b"), True), ("a", False)):
        assert has_numbered_rows(Numbered(item), Columns()) == want
    assert not has_numbered_rows({"encoder_text": ["a"]}, Columns())
