"""Lengths and sizes of lanes; what rows come to is in tests/serving/test_engine.py."""

import dataclasses

import keras
import pytest
from tasks import ONE_LAYER, small_task

from keras_t5gemma2.generation import batching, calls, decoding
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.serving.lane import Lane, length_of
from keras_t5gemma2.serving.tickets import encoded_rows, tickets_of
from keras_t5gemma2.sharding.batch import to_devices

pytestmark = pytest.mark.once


def of_window(window):
    (layer,) = ONE_LAYER.decoder.layers
    layers = (dataclasses.replace(layer, window=window), dataclasses.replace(layer, window=None))
    return dataclasses.replace(ONE_LAYER.decoder, layers=layers)


@pytest.mark.parametrize(
    ("window", "tokens", "want"), [(512, 40, 64), (512, 1000, 1024), (5, 40, 65), (7, 65, 133)]
)
def test_no_ring_ends_inside_of_a_length(window, tokens, want):
    found = length_of(of_window(window), tokens)
    assert found == want and found >= tokens
    assert found % min(window, found) == 0


def test_there_are_few_numbers_of_rows():
    lane = Lane(None, None, 64, None, most_rows=32)
    assert {lane._size_for(count) for count in range(1, 33)} == {1, 8, 32}
    assert (len(lane), lane.free) == (0, 32)


def test_programs_hang_on_few_sizes(monkeypatch):
    """How many rows were encoded, and how many join, makes no further program of joining."""
    lm, run, found = small_task(ONE_LAYER), Lane._run, set()
    backbone, call = lm.backbone, calls.call_of(lm.generator, "projected", verbose=0)
    call = call._replace(sampler=PerCall(), sampler_key=("serving",))

    def noted(lane, name, function, *key):
        def called(*args):
            if name == "join":
                found.add(str([tuple(x.shape) for x in keras.tree.flatten(args)]))
            return run(lane, name, function, *key)(*args)

        return called

    def encode(_, rows):
        return decoding.remember(backbone, rows, *call.cache)

    monkeypatch.setattr(Lane, "_run", noted)
    (ticket,) = tickets_of(lm, "the cat", max_new_tokens=2, stop_token_ids=())
    for encoded in (1, 2, 4, 8):
        rows = to_devices(batching.pad_encoder(encoded_rows([ticket], encoded)))
        group = program(lm.generator, ("encode",), lambda: encode, call)((), rows)
        for count in (1, 3, 8, 9, 32):
            lane = Lane(lm.generator, call, 64, None, most_rows=32)
            lane.join([ticket] * count, group, [n % encoded for n in range(count)])
            assert len(lane) == count
    assert len(found) == 4, sorted(found)
