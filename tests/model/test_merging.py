"""Means, arcs and task vectors of one weight, against what their papers say."""

import numpy as np
import pytest

from keras_t5gemma2.model.merging import linear, slerp, task_arithmetic, ties

pytestmark = pytest.mark.once


def test_linear_is_the_weighted_mean(rng):
    one, two = rng.normal(size=(2, 3, 5))
    np.testing.assert_allclose(linear([one, two], [0.25, 0.75]), 0.25 * one + 0.75 * two)


def test_an_arc_keeps_length_and_divides_the_angle(rng):
    one, two = rng.normal(size=(2, 30))
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    found = slerp([one, two], [0.7, 0.3])
    whole = np.arccos(one @ two)
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert np.arccos(found @ one) == pytest.approx(0.3 * whole)
    assert np.arccos(found @ two) == pytest.approx(0.7 * whole)


def test_an_arc_is_of_what_was_learned_since_the_base(rng):
    base, (x, y) = rng.normal(size=4), np.eye(4)[:2]
    found = slerp([base + x, base + y], [0.5, 0.5], base)
    np.testing.assert_allclose(found - base, [np.sqrt(0.5), np.sqrt(0.5), 0, 0])


def test_three_in_turn_have_equal_parts():
    found = slerp([*np.eye(3)], [1 / 3] * 3)
    half = (np.eye(3)[0] + np.eye(3)[1]) * np.sqrt(0.5)
    want = np.sin(np.pi / 3) * half + np.sin(np.pi / 6) * np.eye(3)[2]
    np.testing.assert_allclose(found, want)


@pytest.mark.parametrize("other", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_where_there_is_no_arc_it_is_a_line(other):
    found = slerp([np.array([1.0, 0.0]), np.array(other)], [0.5, 0.5])
    np.testing.assert_allclose(found, [(1 + other[0]) / 2, 0.0])


def test_task_vectors_add_up(rng):
    base, one, two = rng.normal(size=(3, 4))
    found = task_arithmetic([one, two], [0.5, -1.0], base)
    np.testing.assert_allclose(found, base + 0.5 * (one - base) - (two - base))


def test_ties_trims_elects_and_averages_those_that_agree():
    base = np.zeros(5)
    one, two = np.array([5.0, 4.0, 0.1, -3.0, 0.0]), np.array([1.0, -6.0, 0.2, -5.0, 0.3])
    # Of each the three largest: 5, 4, -3 and 1, -6, -5.
    found = ties([one, two], [0.5, 0.5], base, density=0.6)
    np.testing.assert_allclose(found, [3.0, -6.0, 0.0, -4.0, 0.0])
