"""The directions in which vectors differ most, found in pieces; and ranks shared by them."""

import numpy as np

from keras_t5gemma2.lora.starts import largest

# So many vectors are taken in at a time.
_PIECE = 1024


class Principal:
    """Principal components of vectors that come in pieces (Ross et al., 2008).

    They are exact as long as no more than `count` directions have been seen, and near where the
    largest ones stand out.

    Args:
        count: int. How many components are kept.

    Example:

    >>> found = Principal(1)
    >>> found.add(np.array([[0.0, 1.0], [4.0, 1.0], [2.0, 2.0]]))
    >>> found.components.round(3).tolist(), found.shares.round(3).tolist()
    ([[1.0, 0.0]], [0.923])
    """

    def __init__(self, count):
        self.count, self.seen, self.squares = count, 0, 0.0

    def add(self, x):
        """Takes in vectors, (n, width)."""
        for begin in range(0, len(x), _PIECE):
            piece = np.asarray(x[begin : begin + _PIECE], "float64")
            mean = piece.mean(axis=0)
            piece = piece - mean
            self._add(piece, len(piece), mean, np.sum(piece**2))

    def merge(self, other):
        """Takes in what another one has seen."""
        if other.seen:
            rows = other.lengths[:, None] * other.components
            self._add(rows, other.seen, other.mean, other.squares)

    def _add(self, rows, seen, mean, squares):
        if self.seen:
            both = self.seen + seen
            apart = np.sqrt(self.seen * seen / both) * (self.mean - mean)
            old = self.lengths[:, None] * self.components
            rows = np.concatenate([old, rows, apart[None]])
            squares = squares + self.squares + np.sum(apart**2)
            mean = (self.seen * self.mean + seen * mean) / both
            seen = both
        _, lengths, components = largest(rows, min(self.count, *rows.shape))
        # The sign of a component is free: its largest number is positive.
        heads = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
        self.components, self.lengths = components * np.sign(heads), lengths
        self.seen, self.mean, self.squares = seen, mean, squares

    @property
    def shares(self):
        """(components,) the part of the vectors' variance that each component has."""
        return self.lengths**2 / max(self.squares, np.finfo("float64").tiny)


def shared_ranks(shares, budget):
    """Ranks that add up to a budget: the components of the largest shares are kept.

    Args:
        shares: dict of arrays, largest first, by paths of layers.
        budget: int.

    Returns:
        Dict of ints by the same paths.

    >>> shared_ranks({"a": np.array([0.9, 0.1]), "b": np.array([0.5, 0.4])}, budget=3)
    {'a': 1, 'b': 2}
    """
    paths = [path for path, values in shares.items() for _ in values]
    every = np.concatenate([np.asarray(values) for values in shares.values()])
    kept = np.argsort(-every, kind="stable")[:budget]
    ranks = dict.fromkeys(shares, 0)
    for place in kept:
        ranks[paths[place]] += 1
    return ranks
