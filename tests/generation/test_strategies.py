"""Which strategy does what a sampler does, and tokens drawn from probabilities."""

import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.beams import Beams
from keras_t5gemma2.generation.contrastive import Contrastive
from keras_t5gemma2.generation.loop import DecodeState, Loop
from keras_t5gemma2.generation.strategies import Greedy, OwnLoop, TokenByToken, strategy_of

pytestmark = pytest.mark.once
HUB = keras_hub.samplers


class Own(HUB.Sampler):
    """Keeps what it draws from, and takes token 2."""

    def get_next_token(self, probabilities):
        self.seen = ops.convert_to_numpy(probabilities)
        return ops.full((probabilities.shape[0],), 2, "int32")


class WithLoop(HUB.Sampler):
    """Writes the number of each slot into it, where nothing stands yet."""

    def __call__(self, next, prompt, cache=None, index=0, mask=None, **options):
        self.options = {**options, "index": int(index)}
        logits, _, cache = next(prompt, cache, index)
        self.shape = tuple(logits.shape)
        slots = ops.broadcast_to(ops.arange(prompt.shape[1], dtype="int32"), prompt.shape)
        return ops.where(mask, prompt, slots)


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        (lambda: HUB.GreedySampler(), Greedy),
        (lambda: HUB.TopPSampler(p=0.5, temperature=0), Greedy),
        (lambda: BeamSearch(3, temperature=0), Greedy),
        (lambda: HUB.TopPSampler(p=0.5), TokenByToken),
        (lambda: Own(temperature=0), TokenByToken),
        (lambda: BeamSearch(3), Beams),
        (lambda: HUB.ContrastiveSampler(k=2, alpha=0.5), Contrastive),
        (lambda: WithLoop(), OwnLoop),
        (lambda: HUB.BeamSampler(num_beams=2), OwnLoop),
    ],
)
def test_every_sampler_has_its_strategy(sampler, kind):
    assert type(strategy_of(sampler())) is kind


def test_a_bad_temperature_is_found_when_the_strategy_is_chosen():
    with pytest.raises(ValueError, match="temperature=-1"):
        strategy_of(HUB.TopKSampler(k=2, temperature=-1))


def test_probabilities_are_those_of_the_temperature():
    logits = np.array([[0.0, 2.0, 4.0], [1.0, 1.0, 1.0]], "float32")
    sampler = Own(temperature=2.0)
    tokens, state = strategy_of(sampler).pick(ops.convert_to_tensor(logits), "state", None)
    assert ops.convert_to_numpy(tokens).tolist() == [2, 2] and state == "state"
    want = np.exp(logits / 2)
    np.testing.assert_allclose(sampler.seen, want / want.sum(axis=1, keepdims=True), rtol=1e-5)


def test_at_temperature_zero_the_likeliest_has_all_the_probability():
    sampler = Own(temperature=0)
    logits = ops.convert_to_tensor([[0.0, 5.0, 4.0]])
    strategy_of(sampler).pick(logits, None, None)
    assert sampler.seen.tolist() == [[0, 1, 0]]


def test_what_is_no_number_is_drawn_from_all_the_same():
    """The error comes afterwards, of the logits: torch would end here, and with less to say."""
    sampler = Own()
    strategy_of(sampler).pick(ops.convert_to_tensor([[np.nan, 1.0]]), None, None)
    assert sampler.seen.tolist() == [[1, 1]]


def test_a_loop_of_its_own_gets_all_the_room_and_writes_up_to_the_limit():
    def step(state):
        return ops.zeros((2, 5)), None, state

    sampler = WithLoop()
    ids = np.array([[7, 8, -1, -1, -1], [7, 9, -1, -1, -1]], "int32")
    state = DecodeState(
        ids=ops.convert_to_tensor(ids),
        index=ops.convert_to_tensor(2, dtype="int32"),
        ended=ops.zeros((2,), "bool"),
        cache=ops.zeros((2,)),
        broken=ops.zeros((2,), "int32"),
    )
    loop = Loop(step, ops.convert_to_tensor(4, dtype="int32"), (), "model")
    state = strategy_of(sampler).run(state, loop)
    assert ops.convert_to_numpy(state.ids).tolist() == [[7, 8, 2, 3, -1], [7, 9, 2, 3, -1]]
    assert sampler.shape == (2, 5)
    assert sampler.options == {
        "index": 2,
        "stop_token_ids": None,
        "hidden_states": None,
        "model": "model",
    }
