"""The gated MLP."""

import math

import keras
import numpy as np
import pytest
from gradients import relative_error
from keras import ops
from tiny_models import DECODER, randomize
from tolerances import TOLERANCE

from keras_t5gemma2.model import mlp as module
from keras_t5gemma2.model.mlp import GatedMLP

pytestmark = pytest.mark.once
WIDTH = DECODER.hidden_dim


def tokens(rng, length=3):
    return ops.convert_to_tensor(rng.standard_normal((2, length, WIDTH), "float32"))


def mlp(dtype=None, config=DECODER):
    layer = GatedMLP(config, dtype=dtype)
    layer.build(None)
    randomize(layer)
    return layer


@pytest.mark.parametrize("training", [False, True])
def test_the_mlp_is_its_formula(rng, training):
    layer = mlp()
    x = tokens(rng)
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
    x = tokens(rng, 8)
    want = ops.convert_to_numpy(layer(x))
    lengths, inner = [], layer.gate.call
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 2)
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
    x = tokens(rng)
    got, want = layer(ops.cast(x, "float16")), exact(ops.cast(ops.cast(x, "float16"), "float32"))
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    got, want = ops.convert_to_numpy(got), ops.convert_to_numpy(want)
    assert np.abs(want).max() > 65_504
    assert relative_error(got, want) < 2e-2
