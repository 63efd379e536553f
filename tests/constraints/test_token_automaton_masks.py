"""Which tokens may come next, against llguidance along random walks."""

import re

import numpy as np
import pytest

from keras_t5gemma2.constraints import patterns, token_automaton
from keras_t5gemma2.constraints.expressions import automaton_of
from keras_t5gemma2.vocabulary.token_bytes import TokenBytes

pytestmark = pytest.mark.once
PIECES = [
    *("the", "cat", "is", "red", "yes", "no", "maybe", "12", "2026", "-1", "ab", "abc", "é", "né"),
    *("20", "26-", "---", "aaaa", "bab"),
]


class Tokens:
    """A vocabulary of `<eos>`, all bytes and a few pieces, as llguidance takes it."""

    eos_token_id, bos_token_id, special_token_ids = 0, None, (0,)
    tokens = [b"<eos>", *(bytes([byte]) for byte in range(256)), *(p.encode() for p in PIECES)]

    def __call__(self, text):
        return [1 + byte for byte in (text if isinstance(text, bytes) else text.encode())]


def token_bytes():
    texts = [b"", *Tokens.tokens[1:]]
    lengths = np.array([len(text) for text in texts], "int32")
    data = np.array([[*text.ljust(8, b"\0")] for text in texts], "uint8")
    return TokenBytes(data, lengths, lengths == 0)


@pytest.mark.parametrize(
    "pattern",
    [r"[0-9]{4}-[0-9]{2}", r"(yes|no|maybe)", r"(ab|a)*c?", r"[^b]{2,5}", r"(né|[a-z]{2} )+-?"],
)
def test_masks_are_those_of_llguidance(pattern, rng):
    llguidance = pytest.importorskip("llguidance")
    import llguidance.numpy as masks

    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens()))
    found = token_automaton.compiled(
        automaton_of(patterns.expression_of(pattern)),
        token_bytes(),
        len(Tokens.tokens),
        False,
        (0,),
    )
    grammar = llguidance.LLMatcher.grammar_from_regex(pattern)
    mask = masks.allocate_token_bitmask(1, tokenizer.vocab_size)
    for _ in range(10):
        matcher, state, text = llguidance.LLMatcher(tokenizer, grammar), 0, b""
        for _ in range(12):
            masks.fill_next_token_bitmask(matcher, mask, 0)
            bits = np.unpackbits(mask.view("uint8"), bitorder="little")[: len(Tokens.tokens)]
            allowed = found.table[state, found.classes] >= 0
            assert (allowed == bits.astype(bool)).all(), text
            id = int(rng.choice(np.flatnonzero(allowed)))
            if id == 0:
                assert re.fullmatch(pattern, text.decode())
                break
            assert matcher.consume_token(id)
            state, text = int(found.table[state, found.classes[id]]), text + Tokens.tokens[id]
