"""Lengths and sizes of lanes; what rows come to is in tests/serving/test_engine.py."""

import dataclasses

import pytest
from tasks import ONE_LAYER

from keras_t5gemma2.serving.lane import Lane, length_of

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
