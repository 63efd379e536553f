"""Rows of similar length in a batch: less padding, and nothing else is different."""

import keras
import numpy as np
import pytest
from row_lengths import ROWS, shapes_of_batches
from tasks import small_task

from keras_t5gemma2.training.grouping import by_length, shuffled_by_length
from keras_t5gemma2.training.sources import batches_of

LENGTHS = np.random.default_rng(0).integers(1, 500, size=203).tolist()
# As many short rows as long ones, in turns.
MIXED = {
    "encoder_text": ["the cat", "the cat and a red bee is in the garden of a house " * 3] * 6,
    "decoder_text": ["a dog", "a red bee is in the garden " * 5] * 6,
}


@pytest.fixture
def shapes(monkeypatch):
    return shapes_of_batches(monkeypatch)


@pytest.fixture(scope="module")
def lm():
    lm = small_task()
    lm.preprocessor.encoder_sequence_length = lm.preprocessor.decoder_sequence_length = 200
    return lm


@pytest.mark.once
def test_batches_are_of_similar_length_in_a_random_order():
    indices = np.arange(3, 203)
    orders = [
        shuffled_by_length(indices, LENGTHS, 16, np.random.default_rng((5, epoch)))
        for epoch in (0, 0, 1)
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).mean() > 0.9
    for order in orders:
        assert sorted(order) == indices.tolist()
        batches = np.take(LENGTHS, order[:192]).reshape(12, 16)
        assert np.ptp(batches, axis=1).mean() < 60  # of 500
        assert (np.diff(batches[:, 0]) > 0).any() and (np.diff(batches[:, 0]) < 0).any()
    few = shuffled_by_length(np.arange(5), LENGTHS, 16, np.random.default_rng(0))
    assert sorted(few) == list(range(5))


@pytest.mark.once
def test_similar_lengths_are_sought_among_some_batches():
    """Of many rows a batch is not always of the same ones."""
    lengths = list(range(2000))
    batches = [
        {frozenset(b) for b in shuffled_by_length(np.arange(2000), lengths, 4, rng).reshape(-1, 4)}
        for rng in map(np.random.default_rng, (0, 1))
    ]
    assert not batches[0] & batches[1]


@pytest.mark.once
def test_the_longest_rows_come_first_where_nothing_is_shuffled():
    assert by_length(np.array([4, 0, 2]), [3, 9, 3, 9, 8]).tolist() == [4, 0, 2]


@pytest.mark.once
@pytest.mark.parametrize(
    "method", ["fit", *(pytest.param(m, marks=pytest.mark.once) for m in ("evaluate", "predict"))]
)
def test_short_and_long_rows_are_kept_apart(lm, shapes, method):
    def lengths_of_batches(**options):
        shapes.clear()
        getattr(lm, method)(MIXED, batch_size=2, verbose=0, **options)
        return {decoder[1] for _, decoder in shapes}

    assert 32 in lengths_of_batches()
    keras.utils.set_random_seed(0)
    apart = lengths_of_batches(group_by_length=True)
    assert 32 in apart and len(apart) == 2
    if method != "fit":
        assert lengths_of_batches(group_by_length=False) == {max(apart)}


@pytest.mark.once
def test_each_row_is_seen_once_in_an_order_that_the_seed_gives(lm):
    def epochs():
        keras.utils.set_random_seed(3)
        numbers = np.arange(1.0, 13)
        data = batches_of(MIXED, None, numbers, 5, True, lm._preparation(), True)
        found = []
        for data.epoch in range(2):
            found.append([weights[:, 0].tolist() for _, _, weights in data])
        return found

    first, again = epochs(), epochs()
    assert first == again and first[0] != first[1]
    for batches in first:
        assert [len(batch) for batch in batches] == [5, 5, 2]
        assert sorted(n for batch in batches for n in batch) == list(range(1, 13))


@pytest.mark.once
def test_results_are_those_of_rows_in_order(lm):
    losses = [
        lm.evaluate(ROWS, batch_size=2, verbose=0, group_by_length=grouped)
        for grouped in (True, False, None)
    ]
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)
    grouped, plain = (
        lm.predict(ROWS, batch_size=2, verbose=0, group_by_length=g) for g in (True, False)
    )
    mask = lm.preprocessor(ROWS)[0]["decoder_padding_mask"]
    assert grouped.shape == plain.shape
    np.testing.assert_allclose(grouped[mask], plain[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_validation_is_that_of_rows_in_order(lm):
    lm.optimizer.learning_rate = 0.0
    options = {"batch_size": 2, "verbose": 0}
    wanted = lm.evaluate(ROWS, **options)[0]
    history = lm.fit(MIXED, validation_data=ROWS, **options).history
    np.testing.assert_allclose(history["val_loss"], wanted, rtol=1e-5)
    first = {name: values[:2] for name, values in ROWS.items()}
    history = lm.fit(MIXED, validation_data=ROWS, validation_steps=1, **options).history
    np.testing.assert_allclose(history["val_loss"], lm.evaluate(first, **options)[0], rtol=1e-5)
    lm.optimizer.learning_rate = 0.5


@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("fit", {"shuffle": False}, ValueError, "group_by_length=True, shuffle=False"),
        ("evaluate", {"steps": 1}, ValueError, "group_by_length=True, steps=1"),
        ("predict", {"steps": 1}, ValueError, "group_by_length=True, steps=1"),
        ("fit", {"group_by_length": "yes"}, TypeError, "group_by_length='yes'"),
    ],
)
def test_two_orders_are_refused(lm, method, options, error, message):
    with pytest.raises(error, match=message):
        getattr(lm, method)(ROWS, verbose=0, **{"group_by_length": True, **options})
