"""Regular expressions as `expressions`: their structure read here, their characters by `re`.

Which characters an escape or a class stands for is asked of Python's `re` itself, so that what is
written always matches there.
"""

import functools
import re

from keras_t5gemma2.constraints.expressions import Characters, Either, Repeated, Sequence
from keras_t5gemma2.messages import cause, shown

_MOST_REPEATS = 10_000
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|0[0-7]{0,2}|.)", re.DOTALL
)
_GROUP = re.compile(r"\((?:\?:|\?P<\w+>)?(?!\?)")
_FLAGS = re.compile(r"\(\?([is]+)\)")


def expression_of(pattern):
    """The expression of the texts that `re.fullmatch(pattern, text)` matches.

    Raises:
        TypeError: the pattern is no string.
        ValueError: it is no regular expression, or has what no automaton can follow.

    Example:

    >>> expression_of("a|b+")
    Either(parts=(Characters(ranges=((97, 97),)), Repeated(part=Characters(ranges=((98, 98),)), \
least=1, most=None)))
    """
    if not isinstance(pattern, str):
        raise TypeError(f"`pattern` must be a string. Received: pattern={shown(pattern)}")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"`pattern` must be a regular expression of `re`: {cause(error)}. Received: "
            f"pattern={shown(pattern)}"
        ) from error
    return _Reader(pattern).read()


class _Reader:
    def __init__(self, pattern):
        self._pattern, self._place, self._flags = pattern, 0, 0

    def read(self):
        if flags := self._take(_FLAGS):
            self._flags = (re.IGNORECASE * ("i" in flags[1])) | (re.DOTALL * ("s" in flags[1]))
        found = self._either()
        if self._place < len(self._pattern):
            self._refuse()
        return found

    def _either(self):
        parts = [self._sequence()]
        while self._next("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _sequence(self):
        parts = []
        while self._place < len(self._pattern) and self._pattern[self._place] not in "|)":
            if self._is_border():
                continue
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _is_border(self):
        """Whether an anchor stands at the border of the whole pattern, where it says nothing."""
        here = self._place
        for anchor in ("^", r"\A"):
            if here == 0 and self._next(anchor):
                return True
        for anchor in ("$", r"\Z"):
            if here == len(self._pattern) - len(anchor) and self._next(anchor):
                return True
        return False

    def _atom(self):
        char = self._pattern[self._place]
        if char == "(":
            if not self._take(_GROUP):
                self._refuse()
            found = self._either()
            self._place += 1  # `re` has seen that the group is closed
            return found
        if char == "[":
            return _characters(self._take(_CLASS)[0], self._flags)
        if char == "\\":
            escape = self._take(_ESCAPE)[0]
            if escape[1:] in (*"AZbBG", *"123456789", "N"):
                self._place -= len(escape)
                self._refuse()
            return _characters(escape, self._flags)
        if char in "^$":
            self._refuse()
        self._place += 1
        return _characters(char if char == "." else re.escape(char), self._flags)

    def _repeated(self, part):
        while (count := self._count()) is not None:
            least, most = count
            if self._next("+"):
                self._place -= 1
                self._refuse()  # what such a repetition has taken, it never gives back
            self._next("?")  # which of the matches is taken makes no difference
            if max(least, most or 0) > _MOST_REPEATS:
                self._refuse()
            part = Repeated(part, least, most)
        return part

    def _count(self):
        for sign, count in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._next(sign):
                return count
        found = _COUNT.match(self._pattern, self._place)
        if not found or (found[0] in ("{}", "{,}") and not found[2]):
            return None
        self._place = found.end()
        least = int(found[1] or 0)
        most = (int(found[3]) if found[3] else None) if found[2] else least
        return least, most

    def _take(self, expression):
        found = expression.match(self._pattern, self._place)
        self._place = found.end() if found else self._place
        return found

    def _next(self, text):
        is_next = self._pattern.startswith(text, self._place)
        self._place += len(text) * is_next
        return is_next

    def _refuse(self):
        raise ValueError(
            "`pattern` must be of characters, classes, groups, alternatives and repetitions: no "
            "automaton looks around, back or at borders within a text. Received: pattern="
            f"{shown(self._pattern)}, with {shown(self._pattern[self._place :][:8])}"
        )


_ALL = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))


@functools.lru_cache(1024)
def _characters(source, flags):
    """`Characters` of a class, an escape or a character, as `re` reads it."""
    spans = [found.span() for found in re.finditer(f"(?:{source})+", _ALL, flags)]
    ranges = []
    for start, end in spans:
        # The surrogates are left out of `_ALL`.
        pieces = ((start, min(end, 0xD800)), (max(start, 0xD800), end))
        ranges += [(ord(_ALL[a]), ord(_ALL[b - 1])) for a, b in pieces if a < b]
    return Characters(tuple(ranges))
