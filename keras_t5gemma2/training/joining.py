"""The logits of `predict` as one array, where batches were padded to lengths of their own."""

import keras
import numpy as np
from keras import ops

# As the labels of a batch, which `predict` does not look at: its logits are to be joined.
_MARK = "is_joined"


def as_marked(found, batch):
    """What a step of `predict` gives, of a batch that may be `marked`.

    Keras puts batches together along their first axis alone. So of a batch that is marked, this
    is the logits of all of its tokens one after another, and `joined` parts them again.

    Args:
        found: logits, or on JAX a tuple of them and the state of what it computes.
        batch: what the step took.
    """
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if not (isinstance(y, dict) and _MARK in y):
        return found
    if isinstance(found, tuple):
        logits, *state = found
        return (_by_tokens(logits), *state)
    return _by_tokens(found)


def marked(batch):
    """A batch of arrays whose logits shall be joined."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return x, {_MARK: np.zeros(len(next(iter(x.values()))), "int32")}


def joined(logits, sizes, order=None):
    """The logits of batches as one array; zeros where a row is shorter than the longest.

    Args:
        logits: (tokens, vocabulary), of all batches one after another.
        sizes: list of (rows, rows that were added at the end, length) of the batches, of which
            those that were read and not used come last.
        order: ints, which row of the data each row is, or `None` where they are in order.

    Returns:
        (rows, most tokens of a batch, vocabulary).

    >>> joined(np.arange(8).reshape(8, 1), [(1, 1, 2), (1, 0, 4)])[..., 0]
    array([[0, 1, 0, 0],
           [4, 5, 6, 7]])
    """
    used, end = [], 0
    for rows, added, length in sizes:
        if end == len(logits):
            break
        used.append((rows, added, length))
        end += (rows + added) * length
    longest = max(length for *_, length in used)
    if order is None and all(size[1:] == (0, longest) for size in used):
        return logits.reshape(-1, longest, logits.shape[-1])
    count = sum(rows for rows, *_ in used)
    order = np.arange(count) if order is None else np.asarray(order)
    found = np.zeros((count, longest, logits.shape[-1]), logits.dtype)
    row = start = 0
    for rows, added, length in used:
        of_batch = logits[start : start + rows * length].reshape(rows, length, -1)
        found[order[row : row + rows], :length] = of_batch
        row, start = row + rows, start + (rows + added) * length
    return found


def _by_tokens(logits):
    return ops.reshape(logits, (-1, logits.shape[-1]))
