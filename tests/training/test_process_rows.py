"""Which rows of a batch each of several processes reads."""

import keras
import numpy as np
import pytest

from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.training.process_rows import part_of_batch

pytestmark = pytest.mark.skipif(
    keras.config.backend() == "jax", reason="there a distribution says it, in another test"
)


def batch(rows):
    ids = np.arange(rows * 2).reshape(rows, 2)
    return {"decoder_token_ids": ids}, ids + 100


@pytest.fixture
def parts(monkeypatch):
    """The parts that so many processes read of a batch."""

    def of(batch, count):
        monkeypatch.setattr(processes, "count", lambda: count)
        found = []
        for index in range(count):
            monkeypatch.setattr(processes, "index", lambda index=index: index)
            found.append(part_of_batch(batch))
        return found

    return of


@pytest.mark.once
def test_one_process_reads_all(parts):
    given = batch(3)
    assert parts(given, 1)[0] is given


@pytest.mark.once
def test_parts_together_are_the_batch_and_rows_that_weigh_nothing(parts):
    found = parts(batch(5), 2)
    assert [len(y) for _, y, _ in found] == [3, 3]
    labels = np.concatenate([y for _, y, _ in found])
    weights = np.concatenate([w for *_, w in found])
    np.testing.assert_array_equal(labels[:5], batch(5)[1])
    assert weights[:5].all() and not weights[5].any()
    for x, y, _ in found:
        np.testing.assert_array_equal(x["decoder_token_ids"] + 100, y)


@pytest.mark.once
def test_weights_of_rows_are_parted_too(parts):
    found = parts((*batch(3), np.array([1.0, 2.0, 3.0])), 2)
    assert [w.tolist() for *_, w in found] == [[1.0, 2.0], [3.0, 0.0]]


@pytest.mark.once
def test_a_batch_without_labels_stays_as_it_is(parts):
    given = (batch(4)[0],)
    assert all(found is given for found in parts(given, 2))
