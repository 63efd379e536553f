"""Rows in an order in which those of a batch are of similar length: less of it is padding."""

import numpy as np

from keras_t5gemma2.messages import shown

# Rows of similar length are sought among so many batches, which are drawn at random.
_BATCHES = 64


def check_grouping(group_by_length, shuffle=True, steps=None):
    """Raises where rows cannot be both grouped and in the order that the caller asks for."""
    if group_by_length not in (None, True, False):
        raise TypeError(
            "`group_by_length` must be `True`, `False` or `None`. Received: "
            f"group_by_length={shown(group_by_length)}"
        )
    if group_by_length and not shuffle:
        raise ValueError(
            "`group_by_length` gives rows an order of their own. Received: group_by_length=True, "
            "shuffle=False. Leave one of them out"
        )
    if group_by_length and steps is not None:
        raise ValueError(
            "`group_by_length` gives rows an order of their own, of which the first steps are no "
            f"first rows. Received: group_by_length=True, steps={shown(steps)}. Leave one of them "
            "out"
        )


def by_length(indices, lengths):
    """`indices` in the order of their lengths, the longest first.

    Args:
        indices: (rows,) ints.
        lengths: list of what can be sorted, by index.

    >>> by_length(np.array([0, 2, 3]), [5, 9, 7, 5])
    array([2, 0, 3])
    """
    return np.array(sorted(indices, key=lambda index: lengths[index], reverse=True), int)


def shuffled_by_length(indices, lengths, batch_size, rng):
    """`indices` in a random order of which each batch is of similar length.

    The batches come in a random order; one of fewer rows, of any length, is the last.

    Args:
        indices: (rows,) ints.
        lengths: list of what can be sorted, by index.
        batch_size: int.
        rng: `numpy.random.Generator`.
    """
    order = rng.permutation(indices)
    whole = len(order) - len(order) % batch_size
    size = _BATCHES * batch_size
    parts = [by_length(order[i : min(i + size, whole)], lengths) for i in range(0, whole, size)]
    batches = np.concatenate([*parts, order[:0]]).reshape(-1, batch_size)
    return np.concatenate([*rng.permutation(batches), order[whole:]])
