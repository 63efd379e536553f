"""keras-hub's samplers: their temperatures, their random states, and when two are the same."""

import contextlib
import copy
import threading

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.generation import samplers
from keras_t5gemma2.generation.beam_search import BeamSearch

pytestmark = pytest.mark.once
INPUTS = {"encoder_text": SMALL_ROWS["encoder_text"]}


class Own(keras_hub.samplers.Sampler):
    """The likeliest token but for one that is forbidden."""

    def get_next_token(self, probabilities):
        allowed = ops.arange(probabilities.shape[-1]) != 5
        return ops.argmax(ops.where(allowed, probabilities, 0), axis=-1)


# Temperature ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)],
)
def test_bad_temperatures_are_refused(value, error):
    lm = small_task()
    sampler = keras_hub.samplers.RandomSampler(temperature=value)
    with pytest.raises(error, match=f"`temperature` of a sampler must be .*temperature={value!r}"):
        lm.compile(sampler=sampler)
    with pytest.raises(error, match="temperature="):
        BeamSearch(2, temperature=value)
    lm.compile(sampler="greedy")
    lm.sampler = sampler
    for call in (lm.generate, lm.stream, lambda _: lm.warmup(8)):
        with pytest.raises(error, match="temperature="):
            call("the cat")


def test_temperature_zero_is_greedy():
    lm = small_task()
    want = lm.generate(INPUTS, max_new_tokens=6)
    for sampler in (
        keras_hub.samplers.TopPSampler(p=0.9, temperature=0),
        keras_hub.samplers.RandomSampler(temperature=0.0),
        BeamSearch(3, temperature=0),
        Own(temperature=0),
    ):
        lm.compile(sampler=sampler)
        got = lm.generate(INPUTS, max_new_tokens=6)
        if not isinstance(sampler, Own):
            assert got == want
        else:
            assert all(5 not in ids for ids in lm.preprocessor.tokenizer(got))
    assert "".join(lm.stream("the cat", max_new_tokens=6)) == lm.generate(
        "the cat", max_new_tokens=6, strip_prompt=True
    )


def test_temperature_zero_goes_with_an_assistant_and_draws_nothing():
    lm = small_task()
    want = lm.generate(INPUTS, max_new_tokens=6)
    lm.compile(sampler=keras_hub.samplers.TopKSampler(k=3, temperature=0))
    assert lm.generate(INPUTS, max_new_tokens=6, assistant="prompt_lookup") == want
    with pytest.raises(ValueError, match="needs a sampler that draws"):
        lm.generate(INPUTS, num_return_sequences=2)


def test_which_samplers_are_greedy_and_which_go_token_by_token():
    hub = keras_hub.samplers
    for sampler, is_greedy, by_token in (
        (hub.GreedySampler(), True, True),
        (hub.TopKSampler(k=3, temperature=0), True, True),
        (hub.TopKSampler(k=1), False, True),
        (Own(temperature=0), False, True),
        (BeamSearch(2), False, False),
        (hub.ContrastiveSampler(k=2, alpha=0.5), False, False),
    ):
        assert samplers.is_greedy(sampler) == is_greedy
        assert samplers.goes_token_by_token(sampler) == by_token


# Random states ----------------------------------------------------------------------------------


def test_a_seed_that_was_set_starts_the_random_state_anew():
    def fresh_state(seed):
        return ops.convert_to_numpy(keras.random.SeedGenerator(seed).state).tolist()

    def state():
        return ops.convert_to_numpy(sampler.seed_generator.state).tolist()

    sampler = keras_hub.samplers.TopKSampler(k=3, seed=3)
    fresh = state()
    samplers.take_seed(sampler)
    keras.random.uniform((2,), seed=sampler.seed_generator)
    moved = state()
    samplers.take_seed(sampler)
    assert state() == moved != fresh
    sampler.seed = 4
    samplers.take_seed(sampler)
    assert state() == fresh_state(4) != moved
    sampler.seed = 3
    samplers.take_seed(sampler)
    assert state() == fresh
    samplers.take_seed(BeamSearch(2))  # which has none


def test_only_what_draws_has_to_wait_for_its_turn():
    drawing = keras_hub.samplers.RandomSampler(seed=1)
    assert isinstance(samplers.taking_turns(BeamSearch(2)), contextlib.nullcontext)
    assert samplers.taking_turns(drawing) is samplers.taking_turns(drawing)
    free = []
    with samplers.taking_turns(drawing):
        lock = samplers.taking_turns(drawing)
        thread = threading.Thread(target=lambda: free.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()
    assert free == [False]


# Which programs it needs -----------------------------------------------------------------------


def test_a_key_is_equal_until_an_attribute_changes():
    sampler = keras_hub.samplers.TopKSampler(k=3, seed=3)
    key = samplers.key_of(sampler)
    assert hash(key) == hash(samplers.key_of(sampler)) and key == samplers.key_of(sampler)
    sampler.seed = 4
    assert samplers.key_of(sampler) == key
    for name, value in (("k", 4), ("temperature", 2.0), ("own", {"deep": [1, {2}]})):
        setattr(sampler, name, value)
        assert samplers.key_of(sampler) != key
        key = samplers.key_of(sampler)
    sampler.own["deep"][1].add(3)
    assert samplers.key_of(sampler) != key


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), ([1], (1,)), (0, False), (np.zeros(2), np.zeros((1, 2)))], ids=str
)
def test_what_is_equal_and_of_another_type_is_another(one, other):
    sampler = Own()
    sampler.own = one
    key = samplers.key_of(sampler)
    sampler.own = copy.deepcopy(one)
    assert samplers.key_of(sampler) == key
    sampler.own = other
    assert samplers.key_of(sampler) != key
