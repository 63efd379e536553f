"""The loss without logits against the loss of all logits: values, gradients, training, metrics."""

import dataclasses

import keras
import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops
from tiny_models import DECODER, ENCODER, LOCAL, TEXT_CONFIG
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.loss import reference

WIDTH, VOCABULARY = 7, 53
# One layer each: what is tried here comes after them.
CONFIG = dataclasses.replace(
    TEXT_CONFIG,
    encoder=dataclasses.replace(ENCODER, layers=(LOCAL,)),
    decoder=dataclasses.replace(DECODER, layers=(LOCAL,)),
)


def problem(rng, count, dtype="float32"):
    """Hidden states, a table, labels of which some are no ids, and weights of which some are 0."""
    hidden = ops.cast(rng.normal(size=(count, WIDTH)).astype("float32"), dtype)
    table = ops.cast(rng.normal(size=(VOCABULARY, WIDTH)).astype("float32"), dtype)
    labels = rng.integers(0, VOCABULARY, size=count).astype("int32")
    weights = rng.uniform(0.5, 2.0, size=count).astype("float32")
    hidden_tokens = rng.uniform(size=count) < 0.3
    weights[hidden_tokens] = 0.0
    return hidden, table, np.where(hidden_tokens, -100, labels), weights


def mean_loss(sums):
    return ops.divide_no_nan(sums.loss, sums.weight)


def plain_sums(hidden, table, labels, weights, soft_cap):
    labels, weights = np.where(weights == 0, 0, labels).astype("int32"), weights
    sums = reference.linear_cross_entropy(
        hidden, table, ops.convert_to_tensor(labels), ops.convert_to_tensor(weights), soft_cap
    )
    return kernels.TokenSums(*sums, ops.convert_to_tensor(weights.sum()))


# Fewer tokens than a chunk of 8 has, as many, one more, and several chunks of which one is short.
@pytest.mark.parametrize("count", [5, 8, 9, 30])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_chunks_give_the_loss_and_gradients_of_all_logits(rng, count, soft_cap):
    check(problem(rng, count), soft_cap, "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(rng, dtype):
    check(problem(rng, 30, dtype), 2.0, dtype)


def check(problem, soft_cap, dtype):
    hidden, table, labels, weights = problem

    def chunked(hidden, table):
        sums = kernels.linear_cross_entropy(hidden, table, labels, weights, soft_cap, chunk_size=8)
        return mean_loss(sums)

    def plain(hidden, table):
        return mean_loss(plain_sums(hidden, table, labels, weights, soft_cap))

    got, got_gradients = value_and_gradients(chunked, [hidden, table])
    want, want_gradients = value_and_gradients(plain, [hidden, table])
    np.testing.assert_allclose(got, want, **TOLERANCE[dtype])
    for one, other in zip(got_gradients, want_gradients, strict=True):
        largest = np.abs(other).max()
        assert largest > 0
        np.testing.assert_allclose(one / largest, other / largest, **TOLERANCE[dtype])
    counted = kernels.linear_cross_entropy(hidden, table, labels, weights, soft_cap, chunk_size=8)
    assert float(counted.correct) == pytest.approx(
        float(plain_sums(hidden, table, labels, weights, soft_cap).correct)
    )


def test_small_slopes_of_a_large_vocabulary_survive_float16(rng):
    """Each of 60,000 wrong tokens has a probability that float16 would make zero."""
    size = 60_000
    table = np.zeros((size, 2), "float32")
    table[1:, 1] = 1.0
    hidden = np.array([[9.0, -7.0]], "float32")
    table[0, 0] = 1.0
    labels, weights = np.zeros(1, "int32"), np.ones(1, "float32")

    def loss(hidden):
        # Scaled as a loss-scaling optimizer does.
        sums = kernels.linear_cross_entropy(hidden, ops.cast(table, "float16"), labels, weights)
        return sums.loss * 2.0**12

    _, (got,) = value_and_gradients(loss, [ops.cast(hidden, "float16")])
    wrong = (size - 1) * np.exp(-7.0) / ((size - 1) * np.exp(-7.0) + np.exp(9.0))
    assert np.exp(-7.0) / np.exp(9.0) < 2e-7
    np.testing.assert_allclose(got[0] / 2.0**12, [-wrong, wrong], rtol=4e-3)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_a_frozen_table_gets_no_gradient(rng, soft_cap):
    hidden, table, labels, weights = problem(rng, 9)
    variable = keras.Variable(table, trainable=False)

    def loss(hidden):
        return kernels.linear_cross_entropy(
            hidden, variable, labels, weights, soft_cap, chunk_size=8
        ).loss

    def plain(hidden):
        return plain_sums(hidden, table, labels, weights, soft_cap).loss

    _, (got,) = value_and_gradients(loss, [hidden])
    _, (want,) = value_and_gradients(plain, [hidden])
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])
