"""Labels of rows as arrays."""

import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2.preprocessing.columns import KEYS_OF_CLASSIFIERS, Columns
from keras_t5gemma2.training.label_preparation import LabelPreparation

pytestmark = pytest.mark.once
TEXTS = ["the cat", "a dog"]


def preparation(num_classes, **options):
    lm = tiny_task(vision=False)
    columns = Columns(None, KEYS_OF_CLASSIFIERS)
    return LabelPreparation(
        lm.preprocessor, lm.backbone.config, num_classes=num_classes, columns=columns, **options
    )


@pytest.mark.parametrize(
    ("num_classes", "labels", "dtype", "shape"),
    [
        (3, [2, 0], "int32", (2,)),
        (3, [[2], [0]], "int32", (2,)),
        (3, [[1, 0, 1], [0, 0, 0]], "float32", (2, 3)),
        (1, [0.5, 2], "float32", (2,)),
    ],
)
def test_labels_become_arrays_of_their_kind(num_classes, labels, dtype, shape):
    x, y = preparation(num_classes)(TEXTS, labels)
    assert (y.dtype, y.shape) == (dtype, shape)
    assert sorted(x) == ["encoder_padding_mask", "encoder_token_ids"]


def test_weights_of_classes_and_rows():
    prepare = preparation(2, class_weight={1: 3.0})
    _, _, weights = prepare(TEXTS, [0, 1], np.array([2.0, 0.5]))
    np.testing.assert_array_equal(weights, [2.0, 1.5])
    with pytest.raises(ValueError, match="`sample_weight` must be one number per row"):
        prepare(TEXTS, [0, 1], np.ones((2, 3)))


def test_labels_of_predict_are_not_needed():
    assert len(preparation(2)(TEXTS)) == 2  # the two arrays alone
