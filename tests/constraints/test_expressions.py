"""Expressions over characters as automata over bytes."""

import pytest
from byte_texts import accepts

from keras_t5gemma2.constraints import expressions
from keras_t5gemma2.constraints.expressions import (
    Characters,
    Either,
    Repeated,
    Sequence,
    automaton_of,
    literal,
)

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "ranges",
    [
        ((0, 0x10FFFF),),
        ((0x61, 0x7A), (0x390, 0x3A9)),
        ((0x7F, 0x80), (0x7FE, 0x801), (0xFFFE, 0x10001)),
        ((0xD700, 0xE010),),
        ((0x1F600, 0x1F64F),),
    ],
)
def test_characters_are_those_of_their_ranges(ranges, rng):
    borders = [b + more for pair in ranges for b in pair for more in (-1, 0, 1)]
    codes = [*borders, *rng.integers(0, 0x110000, 60).tolist()]
    found = expressions.automaton_of(Characters(ranges))
    for code in codes:
        if not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
            continue
        is_one = accepts(found, chr(code))
        assert is_one == any(a <= code <= b for a, b in ranges), hex(code)


def test_surrogates_are_no_text():
    found = expressions.automaton_of(Characters(((0xD700, 0xE010),)))
    assert found.step[found.step[0, 0xED], 0xA0] < 0  # ED A0 80 would be the first one


def test_repetitions_are_counted():
    some = Repeated(literal("ab"), 1, 3)
    assert [accepts(automaton_of(some), "ab" * n) for n in range(5)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    loop = Sequence((Repeated(literal("a"), 0, None), Repeated(literal("b"), 2, None)))
    texts = ("bb", "aabbb", "b", "abba")
    assert [accepts(automaton_of(loop), text) for text in texts] == [True, True, False, False]


def test_alternatives_and_nothing():
    either = Either((literal("é"), literal(""), Sequence((literal("x"), literal("y")))))
    assert [accepts(automaton_of(either), text) for text in ("é", "", "xy", "x")] == [
        True,
        True,
        True,
        False,
    ]
    assert accepts(automaton_of(expressions.optional(literal("a"))), "")
