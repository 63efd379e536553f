"""Logits of batches of several lengths as one array."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.training.joining import as_marked, joined, marked

pytestmark = pytest.mark.once


def logits_of(*rows):
    """(tokens, 2), each token twice the same number, of rows of numbers."""
    return np.array([[n, n] for row in rows for n in row], "float32")


def test_batches_of_one_length_are_put_together():
    got = joined(logits_of([1, 2], [3, 4], [5, 6]), [(2, 0, 2), (1, 0, 2)])
    assert got[..., 0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_shorter_rows_end_in_zeros_and_added_rows_are_left_out():
    logits = logits_of([1, 2, 3], [4, 5, 6], [9, 9, 9], [7])
    got = joined(logits, [(2, 1, 3), (1, 0, 1)])
    assert got.shape == (3, 3, 2)
    assert got[..., 1].tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]


def test_rows_come_in_the_order_of_the_data():
    got = joined(logits_of([1, 2], [3, 4], [5, 6]), [(2, 0, 2), (1, 0, 2)], order=[2, 0, 1])
    assert got[..., 0].tolist() == [[3, 4], [5, 6], [1, 2]]


def test_batches_that_were_read_and_not_used_are_not_there():
    got = joined(logits_of([1, 2]), [(1, 0, 2), (4, 0, 7)])
    assert got[..., 0].tolist() == [[1, 2]]


def test_only_marked_batches_give_tokens_in_place_of_rows():
    batch = {"decoder_token_ids": np.zeros((2, 3), "int32")}
    logits = ops.reshape(ops.arange(12), (2, 3, 2))
    assert as_marked(logits, (batch,)) is logits
    assert as_marked(logits, (batch, np.zeros(2))) is logits
    assert tuple(as_marked(logits, marked((batch,))).shape) == (6, 2)
    found, state = as_marked((logits, "state"), marked((batch, None)))
    assert tuple(found.shape) == (6, 2) and state == "state"
    assert marked((batch,))[0] is batch
