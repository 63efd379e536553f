"""Deterministic automata of nondeterministic ones."""

import itertools

import pytest
from byte_texts import accepts

from keras_t5gemma2.constraints import byte_automaton
from keras_t5gemma2.constraints.byte_automaton import Nfa, deterministic

pytestmark = pytest.mark.once


def ends_with_ab():
    """Texts of a and b that end with ab; a state may lead to two by the same byte."""
    nfa = Nfa()
    start, middle, end = (nfa.state() for _ in range(3))
    nfa.add(start, ord("a"), ord("b"), start)
    nfa.add(start, ord("a"), ord("a"), middle)
    nfa.add(middle, ord("b"), ord("b"), end)
    return nfa, start, end


def test_the_texts_are_the_same():
    found = deterministic(*ends_with_ab())
    for length in range(6):
        for text in map("".join, itertools.product("abc", repeat=length)):
            assert accepts(found, text) == (text.endswith("ab") and "c" not in text), text


def test_equal_states_are_one():
    found = deterministic(*ends_with_ab())
    assert found.step.shape == (3, 256) and not found.final.any()


def test_a_state_that_nothing_follows_is_final():
    nfa = Nfa()
    start, end = nfa.state(), nfa.state()
    nfa.add(start, 0, 255, end)
    found = deterministic(nfa, start, end)
    assert found.final.tolist() == found.accepts.tolist() == [False, True]


def test_what_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(byte_automaton, "_MOST_STATES", 1)
    with pytest.raises(ValueError, match="at most 1 states"):
        deterministic(*ends_with_ab())
