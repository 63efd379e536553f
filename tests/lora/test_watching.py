"""Layers that show what they are called with."""

import pytest
from adapted_layers import dense_with, inputs

from keras_t5gemma2.lora.watching import watching

pytestmark = pytest.mark.once


def test_inputs_are_shown_inside_only():
    layer, seen = dense_with({}), []
    with watching(lambda *call: seen.append(call)):
        layer(inputs())
    layer(inputs())
    ((shown, x),) = seen
    assert shown is layer
    assert tuple(x.shape) == inputs().shape
