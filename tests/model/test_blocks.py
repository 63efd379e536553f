"""The gated MLP and the layer around it."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from gradients import relative_error
from keras import ops
from tiny_models import DECODER, LOCAL, randomize
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import Window
from keras_t5gemma2.model import blocks
from keras_t5gemma2.model.blocks import Block, GatedMLP
from keras_t5gemma2.model.rotary import Positions

pytestmark = pytest.mark.once
WIDTH = DECODER.hidden_dim


def mlp(dtype=None, config=DECODER):
    layer = GatedMLP(config, dtype=dtype)
    layer.build(None)
    randomize(layer)
    return layer


def block(dtype=None):
    layer = Block(DECODER, LOCAL, Window.causal(), dtype=dtype)
    layer.build(None)
    randomize(layer)
    return layer


def tokens(rng, length=3):
    x = ops.convert_to_tensor(rng.standard_normal((2, length, WIDTH), "float32"))
    return x, Positions(ops.zeros((2, length), "int32") + ops.arange(length), [LOCAL])


@pytest.mark.parametrize("training", [False, True])
def test_the_mlp_is_its_formula(rng, training):
    layer = mlp()
    x, _ = tokens(rng)
    gate, up, down = (
        ops.convert_to_numpy(dense.kernel) for dense in (layer.gate, layer.up, layer.down)
    )
    z = ops.convert_to_numpy(x) @ gate
    gelu = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    want = (gelu * (ops.convert_to_numpy(x) @ up)) @ down
    got = layer(x, training=training)
    np.testing.assert_allclose(ops.convert_to_numpy(got), want, **TOLERANCE["float32"])


def test_long_inputs_go_through_in_pieces(rng, monkeypatch):
    layer = mlp()
    x, _ = tokens(rng, 8)
    want = ops.convert_to_numpy(layer(x))
    lengths, inner = [], layer.gate.call
    monkeypatch.setattr(blocks, "TOKENS_AT_A_TIME", 2)
    monkeypatch.setattr(
        layer.gate, "call", lambda x, **k: lengths.append(x.shape[1]) or inner(x, **k)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), want, **TOLERANCE["float32"])
    assert set(lengths) == {2}


def test_products_past_the_range_of_float16_are_divided_on_the_way(rng):
    layer, exact = mlp("float16"), mlp()
    for one in (layer, exact):
        for dense, times in ((one.gate, 300.0), (one.up, 300.0), (one.down, 1.0)):
            dense.kernel.assign(ops.round(dense.kernel * 16) / 16 * times)
    x, _ = tokens(rng)
    got, want = layer(ops.cast(x, "float16")), exact(ops.cast(ops.cast(x, "float16"), "float32"))
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    got, want = ops.convert_to_numpy(got), ops.convert_to_numpy(want)
    assert np.abs(want).max() > 65_504
    assert relative_error(got, want) < 2e-2


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
