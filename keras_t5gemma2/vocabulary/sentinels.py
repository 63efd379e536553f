"""The tokens that stand in the places of gaps."""

import itertools
import re
import weakref
from typing import Any

from keras_t5gemma2.messages import shown

# As in the published example.
FIRST_SENTINEL = "<unused6237>"
# By vocabulary and first token: there are thousands to look up.
_FOUND: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


def sentinels(tokenizer, first=FIRST_SENTINEL):
    """The tokens that mark the first gap, the second, and so on: their numbers count down.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        first: string, a token of the vocabulary with a number in it, such as "<unused6237>".

    Returns:
        A tuple of strings: `first`, and those after it up to the first that the vocabulary lacks.

    Raises:
        ValueError: `first` has no number, or is not in the vocabulary.
    """
    vocabulary = tokenizer.loaded_vocabulary()
    of_vocabulary = _FOUND.setdefault(vocabulary, {})
    if first not in of_vocabulary:
        of_vocabulary[first] = _counted_down(vocabulary, first)
    if not of_vocabulary[first]:
        raise ValueError(
            "The first sentinel must be a token of the vocabulary with one number in it, from "
            f"which the others count down. Received: {shown(first)}"
        )
    return of_vocabulary[first]


def _counted_down(vocabulary, first):
    found = re.fullmatch(r"(\D*)(\d+)(\D*)", first)
    if found is None:
        return ()
    before, number, after = found.groups()
    tokens = (f"{before}{i}{after}" for i in range(int(number), -1, -1))
    return tuple(
        itertools.takewhile(lambda token: vocabulary.token_to_id(token) is not None, tokens)
    )
