"""One weight of several models: means, spheres and task vectors. Arrays in, an array out."""

import numpy as np

# Below this angle, in radians, an arc is a line to the precision of float64.
_SMALL_ANGLE = 1e-6


def linear(values, shares, base=None):
    """The weighted mean."""
    return sum(share * value for share, value in zip(shares, values, strict=True))


def slerp(values, shares, base=None):
    """A point on the great circle between two directions, its length between theirs.

    Of more than two, each next one is joined to what those before it gave, by its part of the
    shares so far. With `base`, what is turned and stretched is what each has learned since: the
    weights minus the base's. (Ramé et al. 2024, WARP, arXiv 2406.16768.)
    """
    start = 0.0 if base is None else base
    found, total = values[0] - start, shares[0]
    for value, share in zip(values[1:], shares[1:], strict=True):
        total += share
        found = _between(found, value - start, share / total if total else 0.5)
    return start + found


def task_arithmetic(values, shares, base):
    """The base with the sum of what each has learned since, times its share.

    (Ilharco et al. 2023, arXiv 2212.04089.)
    """
    changes = [share * (value - base) for share, value in zip(shares, values, strict=True)]
    return base + sum(changes)


def ties(values, shares, base, density=0.2):
    """The base with the mean of those changes that are large and go the way most of them go.

    Of each model the `density` of a weight's numbers that changed most is kept; of each number
    the sign with more change, by shares, is chosen, and those of that sign are averaged.
    (Yadav et al. 2023, TIES, arXiv 2306.01708.)
    """
    changes = np.stack([_largest(value - base, density) for value in values])
    weighted = np.array(shares).reshape(-1, *[1] * base.ndim)
    sign = np.sign((weighted * changes).sum(axis=0))
    agrees = (np.sign(changes) == sign) & (changes != 0)
    weight = (weighted * agrees).sum(axis=0)
    total = (weighted * changes * agrees).sum(axis=0)
    return base + np.divide(total, weight, out=np.zeros_like(base), where=weight != 0)


METHODS = {"linear": linear, "slerp": slerp, "task_arithmetic": task_arithmetic, "ties": ties}
NEED_BASE = ("task_arithmetic", "ties")


def _between(one, other, part):
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    line = (1 - part) * one + part * other
    if not all(lengths):
        return line
    cosine = np.clip(np.vdot(one, other) / (lengths[0] * lengths[1]), -1.0, 1.0)
    angle = np.arccos(cosine)
    # Of opposite directions no great circle is the shortest.
    if angle < _SMALL_ANGLE or np.pi - angle < _SMALL_ANGLE:
        return line
    sine = np.sin(angle)
    return np.sin((1 - part) * angle) / sine * one + np.sin(part * angle) / sine * other


def _largest(change, density):
    count = max(1, round(density * change.size))
    if count >= change.size:
        return change
    limit = np.partition(np.abs(change).reshape(-1), change.size - count)[change.size - count]
    return np.where(np.abs(change) >= limit, change, 0.0)
