"""Prepared batches as each trainer takes them."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.training.batches import Batches


def batch(rows, length=3):
    ids = np.full((rows, length), rows, "int32")
    return {"decoder_token_ids": ids, "mask": ids > 0}, ids, np.ones((rows, length), "float32")


class Given(Batches):
    """Batches of these numbers of rows; of 0 an error."""

    def __init__(self, *sizes):
        self.given = sizes

    def first(self):
        return batch(self.given[0])

    def __iter__(self):
        for rows in self.given:
            if rows == 0:
                raise OSError("no such file")
            yield batch(rows)


def rows_of(iterator):
    return [len(found[1]) for found in iterator]


@pytest.mark.once
def test_an_epoch_may_begin_behind_some_batches():
    batches = Given(4, 3, 2)
    assert rows_of(batches.get_numpy_iterator()) == [4, 3, 2]
    batches.first_batch = 2
    assert rows_of(batches.get_numpy_iterator()) == [2]


@pytest.mark.once
def test_an_error_while_reading_is_kept_where_keras_buries_it():
    batches = Given(4, 0)
    iterator = batches.get_numpy_iterator()
    assert batches.error is None and len(next(iterator)[1]) == 4
    with pytest.raises(OSError, match="no such file"):
        next(iterator)
    assert isinstance(batches.error, OSError)


@pytest.mark.once
def test_the_first_batch_for_jax_is_read_at_once():
    with pytest.raises(OSError):
        Given(0).get_jax_iterator()
    assert rows_of(Given(4, 2).get_jax_iterator()) == [4, 2]


@pytest.mark.once
def test_sizes_of_joined_batches_are_written_down():
    batches = Given(4, 2)
    batches.is_joined = True
    assert [set(y) for _, y in batches.get_jax_iterator()] == [{"is_joined"}] * 2
    assert batches.sizes == [(4, 0, 3), (2, 0, 3)]
    # Keras begins another epoch, and takes one batch of it: what is known stays.
    assert len(list(itertools.islice(batches.get_jax_iterator(), 1))) == 1
    assert batches.sizes == [(4, 0, 3), (2, 0, 3)]
    logits = np.zeros(((4 + 2) * 3, 5))
    assert batches.joined(logits).shape == (6, 3, 5)


@pytest.mark.once
def test_added_rows_weigh_nothing_and_are_refused_where_a_loss_would_see_them():
    batches = Given(3)
    x, y, weights = batches._with_rows(batch(3), 3, 1, 4)
    assert len(x["decoder_token_ids"]) == len(y) == 4
    assert weights.sum(axis=-1).tolist() == [3, 3, 3, 0]
    _, _, weights = batches._with_rows(batch(3)[:2], 3, 1, 4)
    assert weights.sum() > 0 and not weights[3].any()
    batches.can_add_rows = False
    with pytest.raises(ValueError, match="a multiple of 4.* a batch of 3 rows"):
        batches._with_rows(batch(3), 3, 1, 4)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="what torch's trainer takes")
def test_torch_gets_tensors():
    found = list(Given(4, 2).get_torch_dataloader())
    assert rows_of(found) == [4, 2]
    assert all(ops.is_tensor(x) for x in keras.tree.flatten(found))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="what its trainer takes")
def test_tensorflow_gets_masks_as_integers():
    found = list(Given(4, 2).get_tf_dataset())
    assert [int(y.shape[0]) for _, y, _ in found] == [4, 2]
    assert found[0][0]["mask"].dtype == "int32"
