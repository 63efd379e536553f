"""Tokens drawn from logits: what is kept against the reference, and how often each one comes."""

import numpy as np
import pytest
import torch
from keras import ops
from scipy import stats
from transformers.generation import logits_process as reference

from keras_t5gemma2.generation import drawing

VOCABULARY = 1536  # three pieces


def settings(rows, **values):
    given = {"temperature": 1.0, "top_k": 2**31 - 1, "top_p": 1.0, "min_p": 0.0, **values}
    dtypes = {"top_k": "int32"}
    columns = {
        name: np.broadcast_to(np.asarray(value, dtypes.get(name, "float32")), (rows,))[:, None]
        for name, value in given.items()
    }
    return {name: ops.convert_to_tensor(x.copy()) for name, x in columns.items()}


def warped(logits, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0):
    """The probabilities of one row by the reference's processors, in its order."""
    chain = [reference.TemperatureLogitsWarper(temperature)]
    chain += [reference.TopKLogitsWarper(top_k)] if top_k else []
    chain += [reference.TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [reference.MinPLogitsWarper(min_p)] if min_p else []
    found = torch.tensor(logits)[None]
    for process in chain:
        found = process(None, found)
    return found.softmax(-1)[0].numpy()


CASES = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.9, "temperature": 1.5},
    {"min_p": 0.2},
    {"top_k": 40, "top_p": 0.6, "min_p": 0.05, "temperature": 0.8},
    {"top_p": 1e-6},
]


def test_weights_are_the_references_probabilities(rng):
    logits = (3 * rng.normal(size=(len(CASES), VOCABULARY))).astype("float32")
    columns = {
        name: [case.get(name, default) for case in CASES]
        for name, default in (
            ("temperature", 1.0),
            ("top_k", 2**31 - 1),
            ("top_p", 1.0),
            ("min_p", 0),
        )
    }
    asked = settings(len(CASES), **columns)
    found = ops.convert_to_numpy(drawing.weights(ops.convert_to_tensor(logits), asked))
    found /= found.sum(axis=1, keepdims=True)
    for row, case in enumerate(CASES):
        want = warped(logits[row], **case)
        assert ((found[row] > 0) == (want > 0)).all(), case
        np.testing.assert_allclose(found[row], want, rtol=1e-4, atol=1e-7)


@pytest.mark.once
def test_of_equal_logits_top_k_keeps_all():
    logits = ops.convert_to_tensor(np.array([[1.0, 1.0, 0.0, 1.0]], "float32"))
    found = drawing.weights(logits, settings(1, top_k=2))
    assert ops.convert_to_numpy(found)[0].tolist() == [1, 1, 0, 1]


@pytest.mark.once
def test_what_is_forbidden_is_never_kept():
    logits = np.array([[-np.inf, 2.0, -np.inf, 1.0]], "float32")
    for asked in (settings(1), settings(1, top_k=3), settings(1, top_p=0.999999)):
        found = ops.convert_to_numpy(drawing.weights(ops.convert_to_tensor(logits), asked))
        assert (found[0] > 0).tolist() == [False, True, False, True]


def test_tokens_come_as_often_as_they_are_likely(rng):
    chances = rng.random(9).astype("float32") * np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], "float32")
    kept = np.zeros((2000, VOCABULARY), "float32")
    places = rng.permutation(VOCABULARY)[:9]
    kept[:, places] = chances
    numbers = rng.random((2000, 1), "float32")
    found = drawing.choose(ops.convert_to_tensor(kept), ops.convert_to_tensor(numbers))
    counts = np.bincount(ops.convert_to_numpy(found), minlength=VOCABULARY)
    assert counts[places].sum() == 2000 and not counts[places][chances == 0].any()
    is_likely = chances > 0
    want = 2000 * chances[is_likely].astype("float64") / chances.astype("float64").sum()
    assert stats.chisquare(counts[places][is_likely], want).pvalue > 1e-3


@pytest.mark.once
def test_numbers_at_the_border_give_tokens_with_weight():
    kept = np.zeros((4, VOCABULARY), "float32")
    kept[:, [3, 700]] = [1.0, 1e-7]
    numbers = np.array([[0.0], [0.5], [1 - 2**-24], [1.0]], "float32")
    found = drawing.choose(ops.convert_to_tensor(kept), ops.convert_to_tensor(numbers))
    assert set(ops.convert_to_numpy(found).tolist()) <= {3, 700}


@pytest.mark.once
def test_rows_of_temperature_zero_get_the_likeliest(rng):
    logits = rng.normal(size=(3, VOCABULARY)).astype("float32")
    asked = settings(3, temperature=[0.0, 50.0, 0.0])
    asked["draws"] = ops.full((3, 2), 0.999)
    state = type("State", (), {"index": ops.convert_to_tensor(5), "ids": np.zeros((3, 6))})
    found, _ = drawing.Drawing(asked).pick(ops.convert_to_tensor(logits), state, None)
    found, best = ops.convert_to_numpy(found), logits.argmax(axis=1)
    assert (found == best).tolist() == [True, False, True]
