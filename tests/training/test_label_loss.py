"""The default loss and accuracy of classifiers, against torch's."""

import numpy as np
import pytest
import torch
from keras import ops
from torch.nn import functional

from keras_t5gemma2.training.label_loss import LabelAccuracy, LabelLoss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 3)).astype("float32")
TOKENS = RNG.normal(size=(2, 4, 3)).astype("float32")
# By kind: labels, logits, torch's loss of them, and the activation that the loss takes too.
CASES = {
    "class": (np.array([0, 2, 1, 1, -100]), LOGITS, functional.cross_entropy, "softmax"),
    "classes": (
        np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]], "float32"),
        *(LOGITS, functional.binary_cross_entropy_with_logits, "sigmoid"),
    ),
    "number": (
        *(RNG.normal(size=5).astype("float32"), LOGITS[:, :1]),
        lambda x, y: functional.mse_loss(x[:, 0], y),
        "linear",
    ),
    "tokens": (
        *(np.array([[0, -100, 2, 1], [-100, -100, 1, 0]]), TOKENS),
        lambda x, y: functional.cross_entropy(x.reshape(-1, 3), y.reshape(-1)),
        "softmax",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_loss_is_that_of_the_reference(kind):
    labels, logits, loss_of, activation = CASES[kind]
    want = loss_of(torch.tensor(logits), torch.tensor(labels)).item()
    np.testing.assert_allclose(float(LabelLoss()(labels, logits)), want, rtol=1e-5)
    functions = {"softmax": ops.softmax, "sigmoid": ops.sigmoid, "linear": lambda x: x}
    outputs = functions[activation](ops.convert_to_tensor(logits))
    np.testing.assert_allclose(float(LabelLoss(activation)(labels, outputs)), want, rtol=1e-4)


@pytest.mark.parametrize("kind", CASES)
def test_rows_without_weight_do_not_count(kind):
    labels, logits, _, _ = CASES[kind]
    weights = np.ones(len(labels), "float32")
    weights[0] = 0
    want = float(LabelLoss()(labels[1:], logits[1:]))
    np.testing.assert_allclose(float(LabelLoss()(labels, logits, weights)), want, rtol=1e-5)


def test_accuracy_counts_labels():
    metric = LabelAccuracy()
    metric.update_state(np.array([1, 0, -100]), np.array([[0, 1.0], [0, 1], [0, 1]]))
    assert float(metric.result()) == 0.5
    metric.reset_state()
    metric.update_state(np.array([[1, 0], [1, 1]]), np.array([[2.0, 1], [3, 0.5]]))
    assert float(metric.result()) == 0.75
    of_probabilities = LabelAccuracy("sigmoid")
    of_probabilities.update_state(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.6], [0.7, 0.2]]))
    assert float(of_probabilities.result()) == 0.5
