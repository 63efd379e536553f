"""Rules over bytes as tables over tokens: equal to reading each token byte by byte."""

import numpy as np
import pytest
from keras import ops, tree
from tasks import TOKENIZER

from keras_t5gemma2.constraints import token_automaton, words
from keras_t5gemma2.constraints.byte_automaton import ByteAutomaton
from keras_t5gemma2.vocabulary.token_bytes import token_bytes

pytestmark = pytest.mark.once
TOKENS = token_bytes(TOKENIZER.loaded_vocabulary(), set(TOKENIZER.special_token_ids), {3})
SIZE = len(TOKENS.lengths) + 3  # some ids of the model have no token


def random_rule(rng, states=7):
    """A rule with transitions on half of all bytes, some states of which lead nowhere."""
    step = rng.integers(0, states, (states, 256)).astype("int32")
    step[rng.random((states, 256)) < 0.3] = token_automaton.DEAD
    step[states - 1] = token_automaton.DEAD
    accepts = np.arange(states) == 2
    return ByteAutomaton(step, accepts, np.zeros(states, bool))


def state_after(rule, state, data):
    for byte in data:
        state = rule.step[state, byte] if state >= 0 else state
    return state


def test_tokens_do_to_a_state_what_their_bytes_do(rng):
    rule = random_rule(rng)
    found = token_automaton.compiled(rule, TOKENS, SIZE, False)
    can_end = found.distance < token_automaton.FAR
    for id in range(len(TOKENS.lengths)):
        data = TOKENS.data[id][: TOKENS.lengths[id]]
        for state in range(len(rule.step)):
            want = state_after(rule, state, data)
            is_dead = TOKENS.is_control[id] or want < 0 or not can_end[want]
            got = found.table[state, found.classes[id]]
            assert got == (token_automaton.DEAD if is_dead else want), (id, state)
    assert (found.table[:7, found.classes[-1]] == token_automaton.DEAD).all()
    assert found.table.shape[0] == 64 and bool(found.forbids)


def test_distances_are_tokens_to_an_end(rng):
    rule = random_rule(rng)
    found = token_automaton.compiled(rule, TOKENS, SIZE, False)
    for state in range(7):
        reached, steps = {state}, 0
        while not any(rule.accepts[s] for s in reached) and steps < 9:
            reached = {int(n) for s in reached for n in found.table[s] if n >= 0} or reached
            steps += 1
        want = steps if any(rule.accepts[s] for s in reached) else token_automaton.FAR
        assert found.distance[state] == want


def test_an_end_is_allowed_where_the_text_may_end(rng):
    rule = random_rule(rng)
    found = token_automaton.compiled(rule, TOKENS, SIZE, False, stop_token_ids=(1,))
    ends = found.table[:7, found.classes[1]]
    assert ends.tolist() == [2 if state == 2 else token_automaton.DEAD for state in range(7)]


def test_words_let_tokens_without_text_pass():
    rule = words.rule_of([], [b"cat"])
    found = token_automaton.compiled(rule, TOKENS, SIZE, True)
    states = np.arange(3)
    for id in (*TOKENIZER.special_token_ids, SIZE - 1):
        assert (found.table[states, found.classes[id]] == states).all()


def test_programs_and_readers_agree(rng):
    found = token_automaton.compiled(random_rule(rng), TOKENS, SIZE, False)
    tensors = tree.map_structure(ops.convert_to_tensor, found)
    ids = rng.integers(0, SIZE, (40, 5)).astype("int32")
    states = ops.zeros((5,), "int32")
    readers = [token_automaton.Reader(found) for _ in range(5)]
    for row in ids:
        states = token_automaton.after(tensors, states, ops.convert_to_tensor(row))
        for reader, id in zip(readers, row, strict=True):
            reader.read(id)
        assert ops.convert_to_numpy(states).tolist() == [reader.state for reader in readers]
    allowed = ops.convert_to_numpy(token_automaton.allowed(tensors, states))
    assert (allowed == (found.table[[reader.state for reader in readers]] >= 0)).all()


def test_a_budget_leaves_what_leads_to_an_end(rng):
    found = token_automaton.compiled(random_rule(rng), TOKENS, SIZE, False)
    tensors = tree.map_structure(ops.convert_to_tensor, found)
    states = np.flatnonzero(found.distance[:7] < token_automaton.FAR).astype("int32")
    left = np.full(len(states), 1, "int32")
    allowed = token_automaton.allowed(tensors, *(ops.convert_to_tensor(x) for x in (states, left)))
    for state, row in zip(states, ops.convert_to_numpy(allowed), strict=True):
        after = found.table[state]
        ends = (after >= 0) & found.accepts[after]
        assert (row == (ends if ends.any() else after >= 0)).all()


def test_anything_forbids_and_ends_nothing():
    found = token_automaton.anything(5)
    assert not found.forbids and not found.final.any() and not found.table[0, found.classes].any()
