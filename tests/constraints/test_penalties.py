"""Penalties against the reference's processors."""

import numpy as np
import pytest
import torch
from keras import ops
from transformers.generation import logits_process as reference

from keras_t5gemma2.constraints import penalties

VOCABULARY = 7


def case(rng, rows=3, length=11, index=9):
    ids = rng.integers(0, VOCABULARY, (rows, length)).astype("int32")
    ids[:, index:] = -1
    first = np.array([0, 2, 7])[:, None]
    slots = np.arange(length)
    is_there = (slots >= first) & (slots < index)
    logits = rng.normal(size=(rows, VOCABULARY)).astype("float32")
    return ids, is_there, logits


def expected(make, ids, is_there, logits):
    """Row by row, of the tokens that are there."""
    rows = [
        make(row)(
            torch.tensor(ids[row][is_there[row]][None]).long(), torch.tensor(logits[row][None])
        )
        for row in range(len(ids))
    ]
    return torch.cat(rows).numpy()


def test_repetitions_are_penalized_as_in_the_reference(rng):
    ids, is_there, logits = case(rng)
    penalty = np.array([[1.3], [0.7], [1.0]], "float32")
    make = lambda row: reference.RepetitionPenaltyLogitsProcessor(float(penalty[row, 0]))  # noqa: E731
    tensors = map(ops.convert_to_tensor, (logits, ids, is_there, penalty))
    found = ops.convert_to_numpy(penalties.repetition(*tensors))
    np.testing.assert_allclose(found, expected(make, ids, is_there, logits), rtol=1e-6)


@pytest.mark.parametrize("sizes", [(1, 2, 3), pytest.param((4, 1, 2), marks=pytest.mark.once)])
def test_runs_are_forbidden_as_in_the_reference(rng, sizes):
    index, size = 9, np.array(sizes, "int32")[:, None]
    for _ in range(8):
        ids, is_there, logits = case(rng)
        ids = np.where(ids < 0, ids, ids % 3)  # so that runs come again
        make = lambda row: reference.NoRepeatNGramLogitsProcessor(int(size[row, 0]))  # noqa: E731
        tensors = map(ops.convert_to_tensor, (logits, ids, is_there))
        found = penalties.repeated_ngrams(
            *tensors, ops.convert_to_tensor(index, dtype="int32"), ops.convert_to_tensor(size)
        )
        want = expected(make, ids, is_there, logits)
        np.testing.assert_allclose(ops.convert_to_numpy(found), want, rtol=1e-6)


@pytest.mark.once
def test_what_changes_nothing_changes_nothing(rng):
    ids, is_there, logits = map(ops.convert_to_tensor, case(rng))
    found = [penalties.repetition(logits, ids, is_there, ops.ones((3, 1)))]
    none = ops.zeros((3, 1), "int32")
    found.append(penalties.repeated_ngrams(logits, ids, is_there, 9, none))
    for one in found:
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, logits)))
