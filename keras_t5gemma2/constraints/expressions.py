"""Expressions over characters: what regular expressions and schemas are made of."""

import functools
import itertools
from typing import Any, NamedTuple

from keras_t5gemma2.constraints.byte_automaton import Nfa, deterministic

# In UTF-8, characters of so many bytes end here, and surrogates have no bytes.
_LAST = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)
_SURROGATES = (0xD800, 0xDFFF)


class Characters(NamedTuple):
    """One of a set of characters."""

    ranges: tuple  # of (first, last) code points, in order, apart from each other


class Sequence(NamedTuple):
    """One after the other."""

    parts: tuple


class Either(NamedTuple):
    """One of several."""

    parts: tuple


class Repeated(NamedTuple):
    """The same thing several times."""

    part: Any
    least: int
    most: int | None  # `None` for any number


def literal(text):
    """The expression of a text."""
    return Sequence(tuple(Characters(((ord(char), ord(char)),)) for char in text))


def optional(part):
    """The part or nothing."""
    return Repeated(part, 0, 1)


def automaton_of(expression):
    """The `ByteAutomaton` of the texts, in UTF-8, that an expression stands for.

    Example:

    >>> found = automaton_of(Either((literal("yes"), literal("no"))))
    >>> found.step.shape, int(found.step[0, ord("y")]) > 0
    ((5, 256), True)
    """
    nfa = Nfa()
    start, end = nfa.state(), nfa.state()
    _add(nfa, expression, start, end)
    return deterministic(nfa, start, end)


def _add(nfa, expression, start, end):
    if isinstance(expression, Characters):
        _add_characters(nfa, expression.ranges, start, end)
    elif isinstance(expression, Either):
        for part in expression.parts:
            _add(nfa, part, start, end)
    elif isinstance(expression, Sequence):
        for part in expression.parts:
            start, before = nfa.state(), start
            _add(nfa, part, before, start)
        nfa.join(start, end)
    else:
        _add_repeated(nfa, expression, start, end)


def _add_repeated(nfa, expression, start, end):
    for _ in range(expression.least):
        start, before = nfa.state(), start
        _add(nfa, expression.part, before, start)
    if expression.most is None:
        # In states of its own, which nothing else leads into.
        loop = nfa.state()
        nfa.join(start, loop)
        _add(nfa, expression.part, loop, loop)
        start = loop
    for _ in range((expression.most or 0) - expression.least):
        nfa.join(start, end)
        start, before = nfa.state(), start
        _add(nfa, expression.part, before, start)
    nfa.join(start, end)


def _add_characters(nfa, ranges, start, end):
    states = {frozenset({()}): end}

    def state_of(rests):
        """The state from which these sequences of ranges of bytes lead to the end."""
        if rests not in states:
            states[rests] = nfa.state()
            add(states[rests], rests)
        return states[rests]

    def add(state, sequences):
        borders = sorted({b for (low, high), *_ in sequences for b in (low, high + 1)})
        for low, after in itertools.pairwise(borders):
            rests = frozenset(tuple(r) for (a, b), *r in sequences if a <= low and after - 1 <= b)
            if rests:
                nfa.add(state, low, after - 1, state_of(rests))

    add(start, _byte_ranges(ranges))


@functools.lru_cache(256)
def _byte_ranges(ranges):
    """Frozenset of tuples of ranges of bytes, whose products are the characters in UTF-8."""
    found = set()
    for low, high in ranges:
        for first, last in zip((0, *(x + 1 for x in _LAST)), _LAST, strict=False):
            inside = max(low, first), min(high, last)
            for a, b in _around_surrogates(*inside):
                found |= set(_split(a, b))
    return frozenset(found)


def _around_surrogates(low, high):
    below, above = (low, min(high, _SURROGATES[0] - 1)), (max(low, _SURROGATES[1] + 1), high)
    return [pair for pair in {below, above} if pair[0] <= pair[1]]


def _split(low, high):
    """Ranges of characters of equally many bytes, in which each byte runs through a range."""
    a, b = chr(low).encode(), chr(high).encode()
    for place in range(1, len(a)):
        # Where an earlier byte differs, the bytes from here on must run through all values.
        size = 1 << (6 * place)
        if low // size != high // size:
            if low % size:
                border = (low // size + 1) * size
                return [*_split(low, border - 1), *_split(border, high)]
            if high % size != size - 1:
                border = high // size * size
                return [*_split(low, border - 1), *_split(border, high)]
    return [tuple(zip(a, b, strict=True))]
