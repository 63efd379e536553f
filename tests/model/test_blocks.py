"""The gated MLP and the layer around it."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import DECODER, LOCAL, randomize
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import Window
from keras_t5gemma2.model.blocks import Block
from keras_t5gemma2.model.rotary import Positions

pytestmark = pytest.mark.once
WIDTH = DECODER.hidden_dim


def block(dtype=None):
    layer = Block(DECODER, LOCAL, Window.causal(), dtype=dtype)
    layer.build(None)
    randomize(layer)
    return layer


def tokens(rng, length=3):
    x = ops.convert_to_tensor(rng.standard_normal((2, length, WIDTH), "float32"))
    return x, Positions(ops.zeros((2, length), "int32") + ops.arange(length), [LOCAL])


def test_what_two_norms_leave_out_changes_nothing(rng):
    """Each half of a layer is added to its input, after a norm whose scale is 1 + its weight."""
    layer = block()
    x, at = tokens(rng)
    assert np.abs(ops.convert_to_numpy(layer(x, at=at)[0] - x)).max() > 0.1
    layer.mlp_output_norm.scale.assign(np.full(WIDTH, -1.0))
    y, _ = layer.attention(layer.attention_norm(x), at=at)
    want = x + layer.attention_output_norm(y)
    got = layer(x, at=at)[0]
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(z) for z in (got, want)), **TOLERANCE["float32"]
    )
    layer.attention_output_norm.scale.assign(np.full(WIDTH, -1.0))
    np.testing.assert_array_equal(*(ops.convert_to_numpy(z) for z in (layer(x, at=at)[0], x)))


def test_sums_of_a_float16_layer_are_float32(rng):
    layer = block("float16")
    x, at = tokens(rng)
    y, own = layer(x * 1e5, at=at)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    assert keras.backend.standardize_dtype(own.keys.dtype) == "float16"
    assert np.isfinite(ops.convert_to_numpy(y)).all()


def test_a_layer_knows_the_arguments_of_its_parts():
    config = dataclasses.replace(DECODER, layers=(LOCAL,))
    layer = Block(config, LOCAL, Window(2, 1))
    assert (layer.argument("attention"), layer.argument("window")) == (LOCAL, Window(2, 1))
    assert layer.argument("config") == config
