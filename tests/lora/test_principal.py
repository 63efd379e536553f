"""Principal components in pieces, and ranks shared by what they explain."""

import numpy as np
import pytest

from keras_t5gemma2.lora.principal import Principal, shared_ranks

pytestmark = pytest.mark.once


def vectors(seed=0, count=300):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 7)) * [9, 6, 4, 3, 2, 1, 0.5] + [3, -2, 5, 0, 1, 9, 2]


def exact(x, count):
    """Components of all vectors at once, each with its largest number positive."""
    _, lengths, found = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    heads = np.take_along_axis(found, np.abs(found).argmax(1)[:, None], axis=1)
    return (found * np.sign(heads))[:count], (lengths**2 / np.sum(lengths**2))[:count]


def test_pieces_give_what_all_vectors_at_once_give():
    x = vectors()
    whole = Principal(7)
    for part in np.array_split(x, 5):
        whole.add(part)
    components, shares = exact(x, 7)
    np.testing.assert_allclose(whole.components, components, atol=1e-6)
    np.testing.assert_allclose(whole.shares, shares, rtol=1e-6)


def test_two_that_have_seen_a_part_each_are_merged():
    x = vectors()
    parts = [Principal(7), Principal(7)]
    for part, rows in zip(parts, (x[:90], x[90:]), strict=True):
        part.add(rows)
    both = Principal(7)
    for part in parts:
        both.merge(part)
    components, shares = exact(x, 7)
    np.testing.assert_allclose(both.components, components, atol=1e-6)
    np.testing.assert_allclose(both.shares, shares, rtol=1e-6)
    assert both.seen == 300


def test_few_components_are_near_where_they_stand_out():
    x = vectors()
    found = Principal(2)
    for part in np.array_split(x, 10):
        found.add(part)
    components, shares = exact(x, 2)
    np.testing.assert_allclose(found.components, components, atol=0.1)
    np.testing.assert_allclose(found.shares, shares, rtol=0.1)


def test_ranks_add_up_to_the_budget_and_go_to_the_largest():
    shares = {"a": np.array([0.5, 0.2]), "b": np.array([0.3, 0.25]), "c": np.array([0.1])}
    assert shared_ranks(shares, 3) == {"a": 1, "b": 2, "c": 0}
    assert shared_ranks(shares, 99) == {"a": 2, "b": 2, "c": 1}
