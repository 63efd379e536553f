"""Beams as a strategy of the loop: their order, their caches and the pool of what has ended."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.beams import HIDDEN, Beams
from keras_t5gemma2.generation.loop import DecodeState, Loop

pytestmark = pytest.mark.once
VOCABULARY = 6


def state_of(prompts, room=4):
    ids = np.array([[*prompt, *[-1] * room] for prompt in prompts], "int32")
    cache = np.array([[prompt[-1]] for prompt in prompts], "float32")
    return DecodeState(
        ids=ops.convert_to_tensor(ids),
        index=ops.convert_to_tensor(len(prompts[0]), dtype="int32"),
        ended=ops.zeros((len(prompts),), "bool"),
        cache={"x": ops.convert_to_tensor(cache)},
        broken=ops.zeros((len(prompts),), "int32"),
    )


def loop(limit=9, stops=()):
    return Loop(None, ops.convert_to_tensor(limit, dtype="int32"), stops, None)


def logits(*chances):
    """(rows, vocabulary) of chances by token; other tokens are far less likely."""
    found = np.full((len(chances), VOCABULARY), -50.0, "float32")
    for row, of_row in zip(found, chances, strict=True):
        for token, chance in of_row.items():
            row[token] = np.log(chance)
    return ops.convert_to_tensor(found)


def numbers(x):
    return ops.convert_to_numpy(x).tolist()


def test_only_the_first_beam_of_a_row_may_be_continued_at_first():
    strategy = Beams(BeamSearch(3))
    state = strategy.begin(state_of([[2], [3]]), loop(), None)
    assert state.ids.shape == (6, 5) and state.cache["x"].shape == (6, 1)
    assert numbers(state.own.scores) == [[0, HIDDEN, HIDDEN]] * 2
    assert bool(strategy.goes_on(state, loop()))
    assert numbers(strategy.result(state)) == [[2, -1, -1, -1, -1], [3, -1, -1, -1, -1]]


def test_beams_are_the_best_continuations_with_the_caches_of_their_parents():
    strategy = Beams(BeamSearch(2))
    state = strategy.begin(state_of([[2]]), loop(), None)
    tokens, state = strategy.pick(logits({4: 0.6, 5: 0.4}, {0: 1.0}), state, loop())
    assert numbers(tokens) == [4, 5]
    state = state._replace(
        index=state.index + 1, cache={"x": ops.convert_to_tensor([[40.0], [50.0]])}
    )
    # 5 then 1 is likelier (0.4 * 0.9) than 4 then 0 or 3 (0.6 * 0.5).
    tokens, state = strategy.pick(logits({0: 0.5, 3: 0.5}, {1: 0.9, 2: 0.1}), state, loop())
    assert numbers(tokens)[0] == 1 and numbers(tokens)[1] in (0, 3)
    assert numbers(state.cache["x"]) == [[50.0], [40.0]]
    assert numbers(state.ids)[0][:3] == [2, 5, 1]
    np.testing.assert_allclose(numbers(state.own.scores), [np.log([0.36, 0.30])], rtol=1e-4)


def test_what_stops_goes_into_the_pool_by_its_score_over_its_length():
    strategy = Beams(BeamSearch(2, length_penalty=1.0))
    state = strategy.begin(state_of([[2]]), loop(stops=(1,)), None)
    _, state = strategy.pick(logits({1: 0.5, 4: 0.3, 5: 0.2}, {0: 1.0}), state, loop(stops=(1,)))
    pool = state.own.pool
    np.testing.assert_allclose(numbers(pool.scores)[0], [np.log(0.5), HIDDEN], rtol=1e-4)
    assert numbers(pool.sequences)[0][0][:2] == [2, 1]
    assert [row[1] for row in numbers(state.ids)] == [4, 5]  # those that run on
    assert numbers(pool.full) == [[False]]
    state = state._replace(index=state.index + 1)
    _, state = strategy.pick(logits({1: 0.9, 3: 0.1}, {3: 1.0}), state, loop(stops=(1,)))
    np.testing.assert_allclose(
        numbers(state.own.pool.scores)[0], [np.log(0.27) / 2, np.log(0.5)], rtol=1e-4
    )
    assert numbers(strategy.result(state))[0][:3] == [2, 4, 1]
    # What runs on has 0.2 and less over a longer text than the worst of the pool.
    assert not bool(strategy.goes_on(state, loop(stops=(1,))))


def test_at_the_limit_all_that_runs_has_ended():
    strategy = Beams(BeamSearch(2, return_all_beams=True))
    state = strategy.begin(state_of([[2]]), loop(limit=2), None)
    _, state = strategy.pick(logits({4: 0.6, 5: 0.4}, {0: 1.0}), state, loop(limit=2))
    sequences, scores = strategy.result(state)
    assert [row[:2] for row in numbers(sequences)[0]] == [[2, 4], [2, 5]]
    np.testing.assert_allclose(numbers(scores)[0], np.log([0.6, 0.4]), rtol=1e-4)


def test_a_vocabulary_of_stop_tokens_alone_is_refused():
    strategy = Beams(BeamSearch(2))
    state = strategy.begin(state_of([[2]]), loop(), None)
    every = tuple(range(VOCABULARY))
    with pytest.raises(ValueError, match="at least one token of the vocabulary that does not stop"):
        strategy.pick(logits({4: 1.0}, {4: 1.0}), state, loop(stops=every))
