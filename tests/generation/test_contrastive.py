"""Contrastive search as a strategy: probability against likeness, by hand."""

import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.generation.contrastive import Contrastive
from keras_t5gemma2.generation.loop import DecodeState, Loop

pytestmark = pytest.mark.once
# The state of each token: 1 is like the prompt's 0, 2 is not, 3 stands between.
STATES = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [-1, 0]], "float32")
CHANCES = np.array([0.02, 0.5, 0.3, 0.17, 0.01], "float32")


def step(state):
    """The same chances after every token; the cache counts what was read."""
    last = ops.take(state.ids, state.index - 1, axis=1)
    hidden = ops.take(ops.convert_to_tensor(STATES), last, axis=0)
    logits = ops.broadcast_to(ops.log(ops.convert_to_tensor(CHANCES)), (last.shape[0], 5))
    return logits, hidden, state._replace(cache=last)


def chosen(alpha, k, prompts=((0,),)):
    """The token behind each prompt, and the state after it."""
    strategy = Contrastive(keras_hub.samplers.ContrastiveSampler(k=k, alpha=alpha))
    count, length = np.shape(prompts)
    ids = np.concatenate([np.array(prompts), np.full((count, 3), -1)], axis=1).astype("int32")
    state = DecodeState(
        ids=ops.convert_to_tensor(ids),
        index=ops.convert_to_tensor(length, dtype="int32"),
        ended=ops.zeros((count,), "bool"),
        cache=ops.zeros((count,), "int32"),
        broken=ops.zeros((count,), "int32"),
    )
    loop = Loop(step, ops.convert_to_tensor(9, dtype="int32"), (), None)
    earlier = np.zeros((count, length + 3, 2), "float32")
    earlier[:, :length] = STATES[np.array(prompts)]
    state = strategy.begin(state, loop, ops.convert_to_tensor(earlier))
    logits, state = strategy.read(state, loop)
    tokens, state = strategy.pick(logits, state, loop)
    return ops.convert_to_numpy(tokens).tolist(), state


def test_without_a_penalty_it_is_the_likeliest():
    assert chosen(alpha=0.0, k=3)[0] == [1]
    assert chosen(alpha=0.9, k=1)[0] == [1]


def test_likeness_costs_and_only_of_the_k_likeliest():
    # 1: 0.25 - 0.5 * 1; 2: 0.15 - 0.5 * 0; 3: 0.085 - 0.5 * 0.71; 4 would be 0.005 + 0.5.
    assert chosen(alpha=0.5, k=3)[0] == [2]
    assert chosen(alpha=0.5, k=5)[0] == [4]
    # 1: 0.45 - 0.1; 2: 0.27.
    assert chosen(alpha=0.1, k=3)[0] == [1]


def test_each_row_is_compared_with_its_own_tokens():
    assert chosen(alpha=0.5, k=3, prompts=((0,), (2,)))[0] == [2, 1]
    # The most alike of all earlier tokens counts: both 1 and 2 are there already.
    tokens, _ = chosen(alpha=0.9, k=3, prompts=((0, 2),))
    assert tokens == [3]


def test_the_state_is_that_of_the_chosen_candidate():
    tokens, state = chosen(alpha=0.5, k=3, prompts=((0,), (2,)))
    assert ops.convert_to_numpy(state.cache).tolist() == tokens
    hidden = ops.convert_to_numpy(state.own.hidden)
    assert hidden[:, 1].tolist() == STATES[tokens].tolist()
    assert hidden[:, 0].tolist() == STATES[[0, 2]].tolist()
    assert state.own.logits.shape == (2, 5)
