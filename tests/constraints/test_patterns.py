"""Regular expressions: texts of their automata match in `re`, and the others do not."""

import re

import numpy as np
import pytest
from byte_texts import accepts

from keras_t5gemma2.constraints import patterns
from keras_t5gemma2.constraints.expressions import automaton_of

pytestmark = pytest.mark.once
PATTERNS = [
    r"[0-9]{4}-[0-9]{2}",
    r"\d{2,3}|\s\S",
    r"\w+",
    r"(?:yes|no|(?P<other>maybe))",
    r"(?i)abc[é-ü]{2}",
    r"a.{1,20}b",
    r"[^\W\d]x?",
    r"^(a|b)*c$",
    r"\Ax{,3}y\Z",
    r"(ab){2}|c+?",
    r"[\]a-]|[]x]",
    r"\u00e9\x41\.\t",
    r"(?s)..",
    r"a{|b{,}",
    "☃+",
    "",
    r"(?i)^a[b-d]$",
    r"(?is)\Aa.\Z",
    r"(?i)(?s)a.",
    r"(?m)^a+$",
    r"(?a)\w\d?",
    r"(?i:a)b|(?-i:c)",
    r"(?i)a(?-i:b)",
    r"^a+|^b$|c$",
    r"(^(?:ab|cd)$)",
    r"(?:^a)?b(?:c$)?",
    r"^^a$$",
]


def texts_of(found, rng, count=40, most=40):
    """Texts of random walks that came to an end."""
    for _ in range(count):
        state, text = 0, b""
        while len(text) < most and not (found.accepts[state] and rng.random() < 0.3):
            following = np.flatnonzero(found.step[state] >= 0)
            if not following.size:
                break
            byte = int(rng.choice(following))
            state, text = found.step[state, byte], text + bytes([byte])
        if found.accepts[state]:
            yield text.decode()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_automata_agree_with_re(pattern, rng):
    found = automaton_of(patterns.expression_of(pattern))
    texts = [*texts_of(found, rng)]
    assert texts and all(re.fullmatch(pattern, text) for text in texts)
    for text in texts:
        for place in range(min(len(text), 6)):
            changed = text[:place] + str(rng.choice([*"ab0-☃ \n"])) + text[place + 1 :]
            assert accepts(found, changed) == bool(re.fullmatch(pattern, changed)), changed


@pytest.mark.parametrize(
    "pattern",
    [
        r"a(?=b)",
        r"(a)\1",
        r"\bword",
        r"a^b",
        r"x++",
        r"(?>a)",
        r"a$b",
        r"(?<!a)b",
        r"(?x)a b",
        r"(^a)+",
        r"(a$|b)c",
        r"c(^a)",
    ],
)
def test_what_no_automaton_follows_is_refused(pattern):
    with pytest.raises(ValueError, match="no automaton looks around"):
        patterns.expression_of(pattern)


def test_what_is_no_expression_is_refused():
    with pytest.raises(ValueError, match=r"must be a regular expression of `re`: .*\[a"):
        patterns.expression_of("[a")
    with pytest.raises(TypeError, match="pattern=5"):
        patterns.expression_of(5)
