"""From rows or arrays to the arrays of a step: weights, ignored labels, targets and images."""

import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task, tiny_task
from tiny_models import token_inputs

from keras_t5gemma2.preprocessing.rows import Row
from keras_t5gemma2.training.preparation import (
    Preparation,
    join_elements,
    rows_of_arrays,
    with_each_target,
)

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task()


def preparation(lm, **options):
    return Preparation(lm.preprocessor, lm.backbone.config, **options)


@pytest.fixture
def arrays(rng):
    """Inputs of two rows, and labels of which two are ignored."""
    x = token_inputs(rng, (5, 3), (3, 2))
    return x, np.array([[11, -100, 12], [13, 11, -100]])


def test_ignored_labels_weigh_nothing_and_are_ids(lm, arrays):
    x, labels = arrays
    for weights, want in (
        (None, [[1, 0, 1], [1, 1, 0]]),
        ([2.0, 3.0], [[2, 0, 2], [3, 3, 0]]),
        ([[1, 2, 3], [4, 5, 6]], [[1, 0, 3], [4, 5, 0]]),
    ):
        weights = None if weights is None else np.array(weights)
        _, y, found = preparation(lm)(x, labels, weights)
        assert y.tolist() == [[11, 0, 12], [13, 11, 0]]
        assert found.tolist() == want
    with pytest.raises(ValueError, match=r"labels?, of shape \(2, 3\). .*of shape \(2, 2\)"):
        preparation(lm)(x, labels, np.ones((2, 2)))


def test_weights_of_classes_are_times_those_of_labels(lm, arrays):
    _, _, weights = preparation(lm, class_weight={11: 0.5, 13: 0.0})(*arrays, np.array([1.0, 4.0]))
    assert weights.tolist() == [[0.5, 0, 1], [0, 2, 0]]


def test_labels_of_a_loss_of_ones_own_stay_as_they_are(lm, arrays):
    x, labels = arrays
    found = preparation(lm, has_token_labels=False)(x, labels - 1000)
    assert len(found) == 2 and (found[1] == labels - 1000).all()


def test_every_batch_of_a_model_that_sees_has_both_forms_of_images():
    lm = tiny_task()
    x, _, _ = preparation(lm)(SMALL_ROWS)
    assert (x["images"].shape, x["image_features"].shape) == ((2, 0, 28, 28, 3), (2, 0, 4, 24))
    rows = {"encoder_text": ["<start_of_image>" * 3], "decoder_text": ["a dog"]}
    image = np.zeros((28, 28, 3), "uint8")
    x, _, _ = preparation(lm)({**rows, "images": [[image] * 3]})
    assert x["images"].shape == (1, 4, 28, 28, 3)  # filled up to a power of two
    assert not x["images"][:, 3].any() and x["images"][:, :3].any()


def test_targets_are_drawn_made_a_row_of_each_or_refused(lm):
    rows = [Row("a", [], ("one", "two", "three"), 0), Row("b", [], "four", 1)]
    each, weights = preparation(lm, targets="each").with_one_target(rows, np.array([2.0, 5.0]))
    assert [row.decoder_text for row in each] == ["one", "two", "three", "four"]
    assert weights.tolist() == [2, 2, 2, 5]
    drawn = preparation(lm, targets="draw")

    def texts():
        return [drawn.with_one_target(rows, place=(0, n))[0][0].decoder_text for n in range(40)]

    assert set(texts()) == {"one", "two", "three"} and texts() == texts()
    with pytest.raises(ValueError, match="Received in row 0: 3 texts"):
        preparation(lm).with_one_target(rows)
    assert preparation(lm).with_one_target(rows[1:]) == (rows[1:], None)


def test_a_row_without_a_target_stays_a_row():
    rows, indices = with_each_target([Row("a", [], None, 0), Row("b", [], ("x", "y"), 1)])
    assert [row.decoder_text for row in rows] == [None, "x", "y"]
    assert indices.tolist() == [0, 1, 1]


def test_raw_data_needs_a_preprocessor(lm):
    with pytest.raises(ValueError, match="preprocessor=None, and data of type <class 'list'>"):
        Preparation(None, lm.backbone.config)(["a"])


def test_arrays_of_rows_are_joined_and_shorter_ones_weigh_nothing_at_their_end():
    def row(*ids):
        ids = np.array(ids)
        return {"decoder_token_ids": ids}, ids, 2.0

    x, y, weights = join_elements([row(1, 2, 3), row(4)])
    assert x["decoder_token_ids"].tolist() == y.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert weights.tolist() == [[2, 2, 2], [2, 0, 0]]
    x, y, weights = join_elements([("a", "b"), ("c", "d")])
    assert (x, y, weights) == (["a", "c"], ["b", "d"], None)


def test_rows_of_arrays_are_taken_by_their_number():
    take, indices = rows_of_arrays({"x": np.arange(6).reshape(3, 2)}, np.arange(3), None)
    assert indices.tolist() == [0, 1, 2]
    x, y, weights = take(np.array([2, 0]))
    assert (x["x"].tolist(), y.tolist(), weights) == ([[4, 5], [0, 1]], [2, 0], None)
    with pytest.raises(ValueError, match="'x': 3, 'y': 2"):
        rows_of_arrays({"x": np.zeros(3)}, np.zeros(2), None)
