"""Grammars over tokens, which Python follows outside of any program: see `automaton` for the rest.

Before each step every row has a parser that says which tokens may come next, one bit for each; the
program gets these bits and spreads them out over its logits.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.constraints.grammars import llguidance
from keras_t5gemma2.messages import cause

_BITS = 32  # of a number, the lowest one first


class TokenGrammar(NamedTuple):
    """A grammar over the tokens of a vocabulary."""

    matcher: Any  # `llguidance.LLMatcher` that has read nothing, of which each row has a copy
    texts: Any  # (V / 32,) uint32: tokens that are text, and no control tokens
    stops: Any  # (V / 32,) uint32: tokens that are allowed where the text may end
    stop_token_ids: tuple

    def reader(self):
        """A `Reader` of the first token."""
        return Reader(self, self.matcher.deep_copy())


class Reader:
    """A parser that reads tokens one by one.

    Args:
        grammar: `TokenGrammar`.
        matcher: `llguidance.LLMatcher` of its own.

    Attributes:
        is_lost: bool. Whether a token was read that may not stand there.
        has_ended: bool. Whether the text has ended, or is lost.
    """

    def __init__(self, grammar, matcher):
        self._grammar, self._matcher = grammar, matcher
        self.has_ended, self.is_lost = False, False

    def copy(self):
        """Another reader that has read the same."""
        found = Reader(self._grammar, self._matcher.deep_copy())
        found.has_ended, found.is_lost = self.has_ended, self.is_lost
        return found

    def read(self, id):
        """Whether the text has ended with this token, or no text goes on from here."""
        if not self.has_ended and id in self._grammar.stop_token_ids:
            self.has_ended, self.is_lost = True, self.is_lost or not self._matcher.is_accepting()
        elif not self.has_ended:
            self.is_lost = not self._matcher.consume_token(int(id))
            self.has_ended = self.is_lost or self._matcher.is_stopped()
        return self.has_ended

    @property
    def is_complete(self):
        """Whether the text may end here."""
        return not self.is_lost and self._matcher.is_accepting()

    def bits(self):
        """(V / 32,) uint32: the tokens that may come next; none where no token leads on."""
        if self.is_lost:
            return np.zeros_like(self._grammar.texts)
        if self.has_ended or self._matcher.is_stopped():
            return self._grammar.stops
        ends = self._grammar.stops if self._matcher.is_accepting() else 0
        size = len(self._grammar.texts)
        found = np.frombuffer(self._matcher.compute_bitmask(), "uint32")[:size]  # it may have more
        found = np.pad(found, (0, size - len(found)))
        return (found & self._grammar.texts) | ends


def tokenizer_of(tokens, end_token_id):
    """The `llguidance.LLTokenizer` of a vocabulary, which takes seconds to make for a large one.

    Args:
        tokens: `token_bytes.TokenBytes`.
        end_token_id: int.
    """
    library = llguidance()
    return library.LLTokenizer(library.TokenizerWrapper(_Tokens(tokens, end_token_id)))


def compiled(grammar, tokenizer, tokens, size, stop_token_ids):
    """The `TokenGrammar` of a `Grammar`.

    Args:
        grammar: `constraints.grammars.Grammar`.
        tokenizer: what `tokenizer_of` gave.
        tokens: `token_bytes.TokenBytes`.
        size: int, the vocabulary of the model.
        stop_token_ids: tuple of ids that are allowed where the text may end, and only there.

    Raises:
        ValueError: it names tokens that the vocabulary has not, or allows no first token.
    """
    matcher = llguidance().LLMatcher(tokenizer, grammar.source, log_level=0)
    if matcher.is_error():
        text = " ".join(matcher.get_error().split())
        raise ValueError(
            f"`constraint` must fit the vocabulary: {cause(ValueError(text))}. Received: "
            f"constraint={grammar}"
        )
    texts = np.zeros(size, bool)
    texts[: len(tokens.is_control)] = ~tokens.is_control
    texts[list(stop_token_ids)] = False
    stops = np.zeros(size, bool)
    stops[list(stop_token_ids)] = True
    found = TokenGrammar(matcher, _packed(texts), _packed(stops), tuple(stop_token_ids))
    if not found.reader().bits().any():
        raise ValueError(
            "`constraint` must allow a text that the vocabulary can spell. Received: "
            f"constraint={grammar}"
        )
    return found


def _packed(flags):
    flags = np.pad(flags, (0, -len(flags) % _BITS))
    return np.packbits(flags, bitorder="little").view("<u4").astype("uint32")


class _Tokens:
    """A vocabulary as llguidance takes it. Control tokens have no bytes: no grammar names them."""

    bos_token_id, special_token_ids = None, ()

    def __init__(self, tokens, end_token_id):
        self.eos_token_id = end_token_id
        pairs = zip(tokens.data, tokens.lengths, strict=True)
        self.tokens = [data[:length].tobytes() for data, length in pairs]
        for id in np.flatnonzero(tokens.is_control):
            self.tokens[id] = b""
        self.tokens[end_token_id] = b"\xff<end>"

    def __call__(self, text):
        return []  # which tokens a text has matters only where tokens are forced


# In a program ------------------------------------------------------------------------------------


def allowed(bits, size):
    """(B, V) bool of (B, V / 32) int32: which tokens may come next."""
    places = ops.arange(_BITS, dtype="int32")
    found = ops.bitwise_and(ops.right_shift(bits[:, :, None], places), 1)
    return ops.reshape(found, (bits.shape[0], -1))[:, :size] > 0


def bits_of(readers):
    """(B, V / 32) int32 of the readers of the rows."""
    found = np.stack([reader.bits() for reader in readers]).view("int32")
    # A row that has ended goes on writing what nobody reads.
    return np.where(found.any(axis=1, keepdims=True), found, np.int32(-1))
