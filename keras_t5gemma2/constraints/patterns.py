"""Regular expressions as `expressions`: their structure read here, their characters by `re`.

Which characters an escape or a class stands for is asked of Python's `re` itself, so that what is
written always matches there.
"""

import functools
import re
from typing import NamedTuple

from keras_t5gemma2.constraints.expressions import Characters, Either, Repeated, Sequence
from keras_t5gemma2.messages import cause, shown

_MOST_REPEATS = 10_000
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|0[0-7]{0,2}|.)", re.DOTALL
)
_GROUP = re.compile(r"\((?:\?(?:P<\w+>|([aimsu]*)(?:-([ims]+))?:))?(?!\?)")
_FLAGS = re.compile(r"\(\?([aimsu]+)\)")
_ANYTHING = Repeated(Characters(((0, 9), (11, 0x10FFFF))), 0, None)  # within a line


class _Border(NamedTuple):
    """An anchor: the text starts or ends here."""

    is_start: bool
    place: int  # in the pattern


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
    reader = _Reader(pattern)
    return reader.within(reader.read(), True, True)


def searched(pattern):
    """The expression of texts in which `re.search` finds a pattern, within a line around it.

    Example:

    >>> searched("^a$|^b$")
    Either(parts=(Sequence(parts=(Characters(ranges=((97, 97),)),)), \
Sequence(parts=(Characters(ranges=((98, 98),)),))))
    """
    reader = _Reader(pattern)
    found = reader.read()
    alternatives = found.parts if isinstance(found, Either) else (found,)
    return Either(tuple(map(reader.around, alternatives)))


def _check(pattern):
    if not isinstance(pattern, str):
        raise TypeError(f"`pattern` must be a string. Received: pattern={shown(pattern)}")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"`pattern` must be a regular expression of `re`: {cause(error)}. Received: "
            f"pattern={shown(pattern)}"
        ) from error


class _Reader:
    def __init__(self, pattern):
        _check(pattern)
        self._pattern, self._place, self._flags = pattern, 0, 0

    def read(self):
        """The expression, in which a `_Border` stands for each anchor."""
        while flags := self._take(_FLAGS):
            self._flags |= _flags_of(flags[1])
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
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def within(self, found, is_start, is_end):
        """The expression without its anchors, all of which must stand where they say nothing.

        Args:
            found: expression.
            is_start, is_end: bool. Whether the text starts before it, and ends behind it.
        """
        if isinstance(found, _Border):
            if not (is_start if found.is_start else is_end):
                self._place = found.place
                self._refuse()
            return Sequence(())
        if isinstance(found, Either):
            return Either(tuple(self.within(part, is_start, is_end) for part in found.parts))
        if isinstance(found, Sequence):
            return self._sequence_within(found.parts, is_start, is_end)
        if isinstance(found, Repeated):
            is_once = found.most == 1
            return found._replace(
                part=self.within(found.part, is_start and is_once, is_end and is_once)
            )
        return found

    def _sequence_within(self, parts, is_start, is_end):
        borders, found = [isinstance(part, _Border) for part in parts], []
        for n, part in enumerate(parts):
            starts, ends = is_start and all(borders[:n]), is_end and all(borders[n + 1 :])
            one = self.within(part, starts, ends)
            found += [] if borders[n] else [one]
        return Sequence(tuple(found))

    def around(self, found):
        """An alternative with anything around it, but where it has an anchor."""
        parts = found.parts if isinstance(found, Sequence) else (found,)
        starts = any(isinstance(part, _Border) and part.is_start for part in parts[:1])
        ends = any(isinstance(part, _Border) and not part.is_start for part in parts[-1:])
        inner = self.within(Sequence(parts), starts, ends)
        before, behind = ([] if here else [_ANYTHING] for here in (starts, ends))
        return Sequence((*before, *inner.parts, *behind))

    def _atom(self):
        char = self._pattern[self._place]
        if char == "(":
            return self._group()
        if char == "[":
            return _characters(self._take(_CLASS)[0], self._flags)
        if char == "\\":
            escape = self._take(_ESCAPE)[0]
            if escape[1:] in ("A", "Z"):
                return _Border(escape[1:] == "A", self._place - len(escape))
            if escape[1:] in (*"bBG", *"123456789", "N"):
                self._place -= len(escape)
                self._refuse()
            return _characters(escape, self._flags)
        self._place += 1
        if char in "^$":
            return _Border(char == "^", self._place - 1)
        return _characters(char if char == "." else re.escape(char), self._flags)

    def _group(self):
        opening = self._take(_GROUP) or self._refuse()
        around = self._flags
        self._flags = (around | _flags_of(opening[1])) & ~_flags_of(opening[2])
        found = self._either()
        self._flags = around
        self._place += 1  # `re` has seen that the group is closed
        return found

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


def _flags_of(letters):
    """Flags of `re`; "m" changes nothing at the borders of a text, and "u" nothing at all."""
    known = {"i": re.IGNORECASE, "s": re.DOTALL, "a": re.ASCII}
    return sum(flag for letter, flag in known.items() if letter in (letters or ""))


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
