"""The loss of all logits against the textbook's formula."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels import SoftTargets
from keras_t5gemma2.kernels.loss import reference

pytestmark = pytest.mark.once


def problem(rng, count=11, width=7, size=53):
    """Hidden states, a table, labels, and weights of which some are 0."""
    hidden, table = rng.normal(size=(count, width)), rng.normal(size=(size, width))
    weights = rng.uniform(0.5, 2.0, size=count) * (rng.uniform(size=count) > 0.3)
    return hidden, table, rng.integers(0, size, size=count), weights


def sums(hidden, table, labels, weights, *options):
    hidden, table, weights = (ops.cast(x, "float32") for x in (hidden, table, weights))
    labels = ops.convert_to_tensor(labels, dtype="int32")
    return [
        float(x) for x in reference.linear_cross_entropy(hidden, table, labels, weights, *options)
    ]


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_it_is_the_textbook_formula(rng, soft_cap):
    hidden, table, labels, weights = problem(rng)
    logits = hidden @ table.T
    if soft_cap:
        logits = soft_cap * np.tanh(logits / soft_cap)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    of_labels = probabilities[np.arange(len(labels)), labels]
    loss, correct = sums(hidden, table, labels, weights, soft_cap)
    assert loss == pytest.approx(-(weights * np.log(of_labels)).sum(), rel=1e-5)
    assert correct == pytest.approx(weights[logits.argmax(-1) == labels].sum(), rel=1e-5)


def test_targets_share_a_token_among_ids_of_which_one_may_come_twice(rng):
    hidden, table, labels, weights = problem(rng)
    others = rng.integers(0, 53, size=labels.shape)
    ids = np.stack([labels, others, labels], axis=1).astype("int32")
    shares = np.tile(np.array([0.5, 0.3, 0.2], "float32"), (len(labels), 1))
    targets = SoftTargets(ops.convert_to_tensor(ids), ops.convert_to_tensor(shares))
    loss, correct = sums(hidden, table, labels, weights, None, targets)
    of_labels, right = sums(hidden, table, labels, weights)
    of_others, _ = sums(hidden, table, others, weights)
    assert loss == pytest.approx(0.7 * of_labels + 0.3 * of_others, rel=1e-5)
    assert correct == right


def test_logits_of_any_size_have_a_finite_loss():
    logits = ops.convert_to_tensor([[[1e4, -1e4], [0.0, 0.0]]])
    labels, weights = ops.array([[1, 0]], "int32"), ops.array([[1.0, 2.0]])
    loss, correct = reference.cross_entropy(logits, labels, weights)
    assert float(loss) == pytest.approx(2e4 + 2 * np.log(2), rel=1e-6)
    assert float(correct) == 2.0  # of equal logits the first counts as the highest


def test_no_token_is_a_loss_of_zero():
    none = ops.zeros((0,), "int32")
    loss, correct = reference.cross_entropy(ops.zeros((0, 5)), none, ops.zeros((0,)))
    assert (float(loss), float(correct)) == (0.0, 0.0)
