"""Reward functions as they are called and checked, and what a sample is worth in its group."""

import numpy as np
import pytest

from keras_t5gemma2.training.rewards import (
    checked_functions,
    left_out_rewards,
    names_of,
    relative_rewards,
    rewards_of,
)

pytestmark = pytest.mark.once


def brief(inputs, outputs):
    return [len(output) <= 4 for output in outputs]


def same(inputs, outputs):
    return np.array([a == b for a, b in zip(inputs, outputs, strict=True)])


def test_relative_rewards_are_the_formula(rng):
    rewards = rng.normal(size=(5, 7))
    want = [
        [(r - np.mean(g)) / np.sqrt(np.mean(g**2) - np.mean(g) ** 2) for r in g] for g in rewards
    ]
    np.testing.assert_allclose(relative_rewards(rewards), want, rtol=1e-9)


def test_a_group_that_is_all_alike_is_worth_nothing():
    # 0.1 has no exact mean: without care, its deviation is not 0, and one over it is huge.
    assert not relative_rewards(np.full((1, 3), 0.1)).any()


def test_left_out_rewards_are_the_formula(rng):
    rewards = rng.normal(size=(5, 7))
    want = [[g[i] - np.delete(g, i).mean() for i in range(7)] for g in rewards]
    np.testing.assert_allclose(left_out_rewards(rewards), want, rtol=1e-9, atol=1e-12)


def test_each_function_gets_two_lists_of_strings():
    seen = []

    def spy(inputs, outputs):
        seen.append((inputs, outputs))
        outputs.clear()
        return [1, 2]

    found = rewards_of((spy, brief), ["a", "b"], ["long text", "so"])
    assert found.tolist() == [[1.0, 2.0], [0.0, 1.0]]
    assert seen[0][0] == ["a", "b"]


def test_arrays_and_bools_are_numbers():
    assert rewards_of((same,), ["a", "b"], ["a", "c"]).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ([1.0], ValueError, r"'bad' must give a finite number for each of 2 texts. Received: 1 v"),
        ([1.0, float("nan")], ValueError, r"for text 1: nan"),
        ([1.0, "x"], TypeError, r"for text 1: 'x'"),
        (3, TypeError, r"Received: 3"),
    ],
)
def test_other_results_are_refused(given, kind, message):
    def bad(inputs, outputs):
        return given

    with pytest.raises(kind, match=message):
        rewards_of((bad,), ["a", "b"], ["c", "d"])


def test_functions_are_checked_and_named():
    assert checked_functions(brief) == (brief,)
    assert names_of((brief, same)) == ["brief", "same"]
    assert names_of((brief, brief)) == ["brief_0", "brief_1"]
    with pytest.raises(TypeError, match=r"`rewards` must be a list of functions f\(inputs, outpu"):
        checked_functions([brief, "x"])
    with pytest.raises(ValueError, match=r"at least one function. Received: rewards=\[\]"):
        checked_functions([])
