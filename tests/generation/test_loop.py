"""The loop that generates, with a step of numbers in the place of a model."""

import numpy as np
import pytest
from keras import ops, tree

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation.cache import Cache
from keras_t5gemma2.generation.finite import NEVER
from keras_t5gemma2.generation.loop import Loop, Strategy, first_state, is_any, run

pytestmark = pytest.mark.once
VOCABULARY = 9


class Highest(Strategy):
    def pick(self, logits, state, loop):
        return kernels.argmax(logits), state


def start(prompt, room=6):
    prompt = np.array(prompt, "int32")
    cache = Cache((), {}, ops.zeros((len(prompt),), "int32"))
    new = np.full((len(prompt), room), -1, "int32")
    return first_state(ops.convert_to_tensor(prompt), ops.convert_to_tensor(new), cache)


def counting(calls=None):
    """A step after which the token one higher than the last is the likeliest."""

    def step(state):
        if calls is not None:
            calls.append(int(state.index))
        last = ops.take(state.ids, state.index - 1, axis=1)
        return ops.one_hot((last + 1) % VOCABULARY, VOCABULARY), None, state

    return step


def ids_of(state):
    return ops.convert_to_numpy(state.ids).tolist()


def loop(limit, stops=(), calls=None):
    return Loop(counting(calls), ops.convert_to_tensor(limit, dtype="int32"), stops, None)


def test_a_first_state_holds_the_prompt_and_free_slots():
    state = start([[3, 4], [5, 6]], room=2)
    assert ids_of(state) == [[3, 4, -1, -1], [5, 6, -1, -1]]
    assert int(state.index) == 2
    assert not ops.convert_to_numpy(state.ended).any()
    assert ops.convert_to_numpy(state.broken).tolist() == [NEVER, NEVER]


def test_tokens_go_to_the_limit_and_no_further():
    state = run(Highest(), start([[3], [7]]), loop(limit=5))
    assert ids_of(state) == [[3, 4, 5, 6, 7, -1, -1], [7, 8, 0, 1, 2, -1, -1]]
    assert int(state.index) == 5
    nothing = run(Highest(), start([[3]]), loop(limit=1))
    assert ids_of(nothing) == [[3] + [-1] * 6]


def test_the_loop_ends_with_the_last_row_that_stops():
    calls = []
    state = Highest().run(start([[3], [7]]), loop(7, stops=(5, 1), calls=calls))
    assert ops.convert_to_numpy(state.ended).all()
    # The second row has its stop token at the third step; the first goes on until then.
    assert ids_of(state) == [[3, 4, 5, 6, -1, -1, -1], [7, 8, 0, 1, -1, -1, -1]]
    if not kernels.IS_COMPILED:
        assert calls == [1, 2, 3]
    assert Highest().result(state) is state.ids


def test_ids_are_among_those_of_a_tuple():
    x = ops.convert_to_tensor([[1, 2], [3, 1]], dtype="int32")
    for wanted, want in (((), [[0, 0], [0, 0]]), ((1, 3), [[1, 0], [1, 1]])):
        assert ops.convert_to_numpy(is_any(x, wanted)).astype(int).tolist() == want


def test_a_choice_is_the_strategy_s():
    with pytest.raises(NotImplementedError):
        Strategy().pick(None, None, None)
    state = start([[3]])
    assert Strategy().begin(state, None, None) is state
    assert len(tree.flatten(state)) == 5
