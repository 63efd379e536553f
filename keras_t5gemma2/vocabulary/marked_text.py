"""Text in which a mark says what is no control token, though it is spelled like one.

A user's words are put into a prompt beside control tokens of the prompt's own, and stay text:
behind the first character of each word of theirs that is spelled like a control token stands a
mark. The whole can then be cut, joined and searched like any string.
"""

import functools
import itertools
import re

# Characters that no text has: reserved for use inside of programs, and private ones.
_MARKS = [*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xE000, 0xF900))]


def mark_for(text):
    """A character that is not in a text."""
    return next(mark for mark in _MARKS if mark not in text)


@functools.lru_cache(maxsize=8)
def _pattern(tokens):
    """What finds each token of a frozenset, a longer one before a shorter."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


@functools.lru_cache(maxsize=8)
def _beginnings(tokens):
    """All beginnings of tokens, of which there are thousands; the length of the longest token."""
    found = {token[:size] for token in tokens for size in range(1, len(token))}
    return found, max(map(len, tokens), default=0)


def marked(text, tokens, mark):
    """`text` with a mark in each word that is spelled like a control token.

    So is the beginning of such a word at the end, which text behind it might complete.

    Args:
        text: string.
        tokens: frozenset of strings, the control tokens.
        mark: string, a character that is not in the text.

    Example:

    >>> marked("a <eos> b <eo", frozenset({"<eos>"}), "|")
    'a <|eos> b <|eo'
    """
    if not tokens:
        return text
    text = _pattern(tokens).sub(lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)
    beginnings, longest = _beginnings(tokens)
    body = text.rstrip()
    for size in range(1, min(longest, len(body)) + 1):
        if body[-size:] in beginnings:
            place = len(body) - size + 1
            return f"{text[:place]}{mark}{text[place:]}"
    return text


def unmarked(text, mark):
    """What `marked` made `text` of."""
    return text.replace(mark, "")


def ids_of_marked(vocabulary, text, mark):
    """Token ids of a text, of which what is marked is text and merged with what is around it.

    Args:
        vocabulary: `Vocabulary`.
        text: string, of which `marked` made a part.
        mark: string, the mark; "" where nothing can be marked.

    Returns:
        A list of ints: where nothing is spelled like a control token and is none, those of the
        whole text as ever.
    """
    if not (mark and mark in text):
        return vocabulary.encode([text])[0]
    pattern = _pattern(vocabulary.control_tokens)
    parts, plain = pattern.split(text), unmarked(text, mark)
    if len(parts) == len(pattern.split(plain)):
        return vocabulary.encode([plain])[0]
    texts = [unmarked(part, mark) for part in parts[::2]]
    ids = vocabulary.without_control_tokens.encode(texts)
    between = [[vocabulary.token_to_id(token)] for token in parts[1::2]]
    pairs = itertools.zip_longest(ids, between, fillvalue=())
    return [id for pair in pairs for part in pair for id in part]
