"""The weights of heads in files: what is refused."""

import keras
import numpy as np
import pytest

from keras_t5gemma2.checkpoints.heads import ReferenceHead, assign, own_head_tensors
from keras_t5gemma2.files.layout import LINEAR
from keras_t5gemma2.files.tensors import StoredTensor

pytestmark = pytest.mark.once


class Named:
    """A variable of a path."""

    def __init__(self, path, shape):
        self.path, self.shape, self.value = path, shape, None

    def assign(self, value):
        self.value = value


def tensor(values, layout=LINEAR):
    return StoredTensor("score.out_proj.weight", values.shape, lambda: values, layout=layout)


def test_values_are_assigned_in_the_layout_of_the_variable():
    kernel = Named("head/output/kernel", (2, 3))
    values = np.arange(6.0).reshape(3, 2)
    assign([kernel], {kernel.path: tensor(values)}, "file")
    np.testing.assert_array_equal(kernel.value, values.T)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"Missing: \['head/output/kernel'\]"),
        ({"head/output/kernel": np.zeros((2, 2))}, r"must have the shape \(2, 3\)"),
        ({"head/output/kernel": np.full((3, 2), np.nan)}, "must be finite"),
    ],
)
def test_tensors_that_are_refused_change_nothing(tensors, message):
    kernel = Named("head/output/kernel", (2, 3))
    with pytest.raises(ValueError, match=message):
        assign([kernel], {path: tensor(values) for path, values in tensors.items()}, "file")
    assert kernel.value is None


def test_a_file_of_another_task_is_refused(tmp_path):
    assert own_head_tensors(tmp_path) == {}
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "task.weights.h5")
    with pytest.raises(ValueError, match="must hold the weights of a head. Unexpected: "):
        own_head_tensors(tmp_path)


def test_the_config_of_a_head():
    config = ReferenceHead("T5Gemma2ForSequenceClassification", 2, 0.1, 2).config
    assert config["id2label"] == {0: "LABEL_0", 1: "LABEL_1"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
