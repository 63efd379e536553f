"""Strings that stop, and strings that may not come, found byte by byte."""

import re

import numpy as np
import pytest

from keras_t5gemma2.constraints import words

pytestmark = pytest.mark.once


def state_after(rule, text):
    state = 0
    for byte in text:
        state = rule.step[state, byte]
        if state < 0:
            return "dead"
        if rule.final[state]:
            return "final"
    return "open"


@pytest.mark.parametrize("alphabet", ["ab", "abc"])
def test_words_are_found_wherever_they_begin(alphabet, rng):
    for _ in range(200):
        word = lambda: "".join(rng.choice(list(alphabet), rng.integers(1, 5)))  # noqa: E731
        stop, bad = ([word() for _ in range(rng.integers(0, 3))] for _ in range(2))
        text = "".join(rng.choice(list(alphabet), 12))
        rule = words.rule_of(*([word.encode() for word in of] for of in (stop, bad)))
        ends = {kind: [] for kind in ("final", "dead")}
        for kind, of in (("final", stop), ("dead", bad)):
            for one in of:
                ends[kind] += [m.start() + len(one) for m in re.finditer(f"(?={one})", text)]
        dead, final = (min(ends[kind], default=99) for kind in ("dead", "final"))
        want = "open" if dead == final == 99 else "dead" if dead <= final else "final"
        assert state_after(rule, text.encode()) == want, (stop, bad, text)


def test_without_words_everything_goes_on():
    rule = words.rule_of([], [])
    assert rule.step.shape == (1, 256) and not rule.step.any() and not rule.final.any()


def test_text_ends_before_the_first_of_the_strings():
    assert words.cut("one two three", ("three", "tw")) == "one "
    assert words.cut("one", ("two",)) == "one" and words.cut("one", ()) == "one"


def test_what_may_become_a_string_is_held_back():
    assert words.held_back("a st", ("stop", "tea")) == 2
    assert words.held_back("a te", ("stop", "tea")) == 2
    assert words.held_back("a x", ("stop",)) == 0 and words.held_back("stop", ()) == 0
    np.testing.assert_equal([words.held_back("sto" * n, ("stop",)) for n in (1, 2)], [3, 3])
