"""Which tokens a grammar allows: as automata do where both can say it, and never control tokens."""

import numpy as np
import pytest
from keras import ops
from tasks import TOKENIZER, tiny_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, constraints
from keras_t5gemma2.constraints import patterns, token_automaton, token_grammars
from keras_t5gemma2.constraints.expressions import automaton_of
from keras_t5gemma2.vocabulary.token_bytes import token_bytes

pytestmark = pytest.mark.once
CONTROL = {TOKENIZER.token_to_id("<unk>"), TOKENIZER.start_of_turn_token_id}
CONTROL |= {TOKENIZER.end_of_turn_token_id}
TOKENS = token_bytes(
    TOKENIZER.loaded_vocabulary(), set(TOKENIZER.special_token_ids), CONTROL - {None}
)
SIZE = len(TOKENS.lengths) + 3  # some ids of the model have no token
END = TOKENIZER.end_token_id
LIBRARY = token_grammars.tokenizer_of(TOKENS, END)


def compiled(grammar, stop_token_ids=(END,)):
    return token_grammars.compiled(grammar, LIBRARY, TOKENS, SIZE, stop_token_ids)


def tokens_of(bits):
    """(V,) bool: which tokens the bits of a row allow, as a program reads them."""
    bits = ops.convert_to_tensor(bits.view("int32")[None])
    return ops.convert_to_numpy(token_grammars.allowed(bits, SIZE))[0]


@pytest.mark.parametrize(
    "pattern",
    [r"[0-9]{4}-[0-9]{2}", r"(yes|no|maybe)", r"(the|a )*c?", r"[^b]{2,5}", r"(né|[a-z]{2} )+-?"],
)
def test_masks_are_those_of_the_automaton_along_random_walks(pattern, rng):
    rule = token_automaton.compiled(
        automaton_of(patterns.expression_of(pattern)), TOKENS, SIZE, False, (END,)
    )
    grammar = compiled(constraints.grammar(f"start: /{pattern}/"))
    for _ in range(10):
        reader, own = grammar.reader(), rule.reader()
        for _ in range(12):
            allowed = rule.table[own.state, rule.classes] >= 0
            assert (tokens_of(reader.bits()) == allowed).all()
            assert reader.is_complete == own.is_complete
            id = int(rng.choice(np.flatnonzero(allowed)))
            ends = own.read(id) or id == END
            assert reader.read(id) == ends and not reader.is_lost
            if ends:
                break


def test_of_what_nests_each_opening_has_its_end(rng):
    grammar = compiled(constraints.grammar('start: "(" start ")" | "[" start "]" | "x"'))
    for _ in range(10):
        reader, ids, has_ended = grammar.reader(), [], False
        while not has_ended and len(ids) < 200:
            allowed = np.flatnonzero(tokens_of(reader.bits()))
            ids.append(int(rng.choice(allowed)))
            has_ended = reader.read(ids[-1])
        text = TOKENIZER.detokenize(ids)
        inner = text.index("x")
        pairs = {"(": ")", "[": "]"}
        assert text[inner + 1 :] == "".join(pairs[char] for char in text[:inner][::-1])


def test_copies_read_apart():
    reader = compiled(constraints.grammar('start: "ab" | "ac"')).reader()
    reader.read(TOKENIZER("a")[0])
    other = reader.copy()
    assert reader.read(TOKENIZER("b")[0]) and not reader.is_lost
    assert other.read(TOKENIZER("c")[0]) and not other.is_lost


def test_a_token_that_may_not_stand_there_loses_the_text():
    reader = compiled(constraints.grammar('start: "a"+ "b"')).reader()
    assert not reader.read(TOKENIZER("a")[0]) and not reader.is_lost
    assert reader.read(END) and reader.is_lost and not reader.is_complete
    reader = compiled(constraints.grammar('start: "a"+ "b"')).reader()
    assert reader.read(TOKENIZER("b")[0]) and reader.is_lost and not reader.bits().any()


def test_rows_that_have_ended_are_free():
    readers = [compiled(constraints.grammar('start: "ab"')).reader() for _ in range(2)]
    readers[0].read(TOKENIZER("e")[0])
    lost, other = token_grammars.bits_of(readers)
    assert (lost == -1).all() and (other == readers[1].bits().view("int32")).all()


@pytest.mark.parametrize(
    ("lark", "rule"),
    [
        ("start: <end_of_turn>", "must fit"),
        ("start: <[3]>", "must allow"),
        ('start: "a" <eos>', "must fit"),
    ],
)
def test_no_grammar_names_a_control_token(lark, rule):
    lm = tiny_task(vision=False)
    with pytest.raises(ValueError, match=f"`constraint` {rule}.*Received: constraint=Gr"):
        lm.generate("the cat", constraint=constraints.grammar(lark), max_new_tokens=2)


def test_vocabularies_of_whole_words_of_bits():
    """Of the embedded preset's 2,560 tokens, more bits come than tokens."""
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.compile(sampler="greedy")
    assert lm.backbone.config.vocabulary_size % 32 == 0
    nested = constraints.grammar('start: "(" start ")" | /[a-z]+/')
    text = lm.generate("Spell 42 in German.", constraint=nested, max_new_tokens=16)
    assert text == "zweiundvierzig"
