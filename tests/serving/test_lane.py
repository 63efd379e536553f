"""Lengths and sizes of lanes; what rows come to is in tests/serving/test_engine.py."""

import collections
import dataclasses

import keras
import pytest
from tasks import ONE_LAYER, small_task

from keras_t5gemma2.serving.engine import Engine
from keras_t5gemma2.serving.lane import Lane, length_of
from keras_t5gemma2.serving.tickets import tickets_of

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
    """How rows were encoded, and how many wait, makes no further program of what lets them join."""
    lm, found = small_task(ONE_LAYER), collections.defaultdict(set)
    lm.preprocessor.set_lengths(encoder_sequence_length=300)
    run = Lane._run

    def noted(lane, name, function, *key):
        def called(*args):
            shapes = [tuple(x.shape) for x in keras.tree.flatten(args)]
            found[name].add((key, str(shapes)))
            return run(lane, name, function, *key)(*args)

        return called

    monkeypatch.setattr(Lane, "_run", noted)
    engine = Engine(lm, most_rows=32)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 12, 20, 32):
        tickets = []
        for n in range(count):
            text = " ".join(["the cat"] * (40 if n == 1 else 1)) + "a" * n
            tickets += tickets_of(lm, text, max_new_tokens=2, stop_token_ids=())
        engine.write(tickets)
    engine.close()
    # 1 or 8 rows into a batch of 1, 8 or 32, each of two widths
    assert len(found["join"]) <= 10, sorted(found["join"])
