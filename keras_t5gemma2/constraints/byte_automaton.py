"""An automaton over bytes, made of a nondeterministic one."""

from typing import NamedTuple

import numpy as np

DEAD = -1
_MOST_STATES = 20_000


class ByteAutomaton(NamedTuple):
    """A rule over bytes; the first state is 0."""

    step: np.ndarray  # (S, 256) int32: the next state, or DEAD
    accepts: np.ndarray  # (S,) bool: whether the text may end here
    final: np.ndarray  # (S,) bool: whether it ends here


class Nfa:
    """States that bytes lead to several others from, and some to others without a byte."""

    def __init__(self):
        self.by_byte, self.without = [], []

    def state(self):
        """The number of a new state."""
        self.by_byte.append([])
        self.without.append([])
        return len(self.without) - 1

    def add(self, start, low, high, end):
        """Bytes `low` to `high` lead from one state to the other."""
        self.by_byte[start].append((low, high, end))

    def join(self, start, end):
        """No byte leads from one state to the other."""
        self.without[start].append(end)


def deterministic(nfa, start, end):
    """The smallest `ByteAutomaton` of an `Nfa` between two of its states.

    Raises:
        ValueError: it would have more than 20,000 states.
    """
    borders = sorted({0, 256, *(b for of in nfa.by_byte for lo, hi, _ in of for b in (lo, hi + 1))})
    column = np.searchsorted(borders, np.arange(256), side="right") - 1
    first = _closed(nfa, [start])
    numbers, waiting, rows = {first: 0}, [first], []
    for states in waiting:
        targets = [[] for _ in borders[:-1]]
        for state in states:
            for low, high, target in nfa.by_byte[state]:
                for place in range(column[low], column[high] + 1):
                    targets[place].append(target)
        row, known = [], {}
        for of_byte in targets:
            key = tuple(of_byte)
            if key and key not in known:
                known[key] = _closed(nfa, key)
                if known[key] not in numbers:
                    numbers[known[key]] = len(numbers)
                    waiting.append(known[key])
            row.append(numbers[known[key]] if key else DEAD)
        rows.append(row)
        if len(numbers) > _MOST_STATES:
            raise ValueError(
                f"A constraint must have at most {_MOST_STATES} states. Received one with more: "
                "give shorter or fewer counted repetitions"
            )
    accepts = np.array([end in states for states in numbers])
    return _smallest(np.array(rows, "int32"), accepts, column)


def _closed(nfa, states):
    """The states, and all that lead on from them without a byte, as a frozenset."""
    found, waiting = set(states), list(states)
    while waiting:
        for target in nfa.without[waiting.pop()]:
            if target not in found:
                found.add(target)
                waiting.append(target)
    return frozenset(found)


def _smallest(step, accepts, column):
    """States from which the same texts are accepted become one (Moore)."""
    kinds = accepts.astype("int64")
    while True:
        of_targets = np.append(kinds, DEAD)[step]
        rows = np.concatenate([kinds[:, None], of_targets], axis=1)
        _, first, found = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        found = found.reshape(-1)
        if len(first) == len(np.unique(kinds)):
            break
        kinds = found
    order = np.argsort(first)  # the first state stays the first
    rank = np.argsort(order)
    kinds, first = rank[found], first[order]
    step = np.append(kinds, DEAD)[step[first]][:, column].astype("int32")
    accepts = accepts[first]
    return ByteAutomaton(step, accepts, accepts & (step == DEAD).all(axis=1))
