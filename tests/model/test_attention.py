"""Attention over own tokens and the encoder's: its formula, and two ways to remember."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from tiny_models import LOCAL, randomize
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.model.attention import Attention, Memory, SharedMemory
from keras_t5gemma2.model.rotary import Positions

pytestmark = pytest.mark.once
WIDTH = 28
CAUSAL = Window.causal()


def attention(config=LOCAL, window=CAUSAL):
    layer = Attention(config, window, WIDTH)
    layer.build(None)
    randomize(layer)
    return layer


def tokens(rng, length, rows=2):
    x = ops.convert_to_tensor(rng.standard_normal((rows, length, WIDTH), "float32"))
    positions = np.tile(np.arange(length, dtype="int32"), (rows, 1))
    return x, ops.convert_to_tensor(positions)


def memory_of(layer, encoded, positions, is_shared):
    if not is_shared:
        return layer.remember(encoded, positions)
    encoded = encoded[:, None]
    return SharedMemory(encoded, *layer.remember_shared(encoded), positions)


def test_a_lone_token_gets_its_own_value(rng):
    """Whatever its query and key: a softmax of one score is 1."""
    layer = attention()
    x, positions = tokens(rng, 1)
    y, own = layer(x, at=Positions(positions, [LOCAL]))
    value = ops.convert_to_numpy(layer.value(x)).reshape(2, 1, 3, 8)
    mixed = np.repeat(value, 2, axis=2).reshape(2, 1, 48)  # two query heads for each key head
    want = mixed @ ops.convert_to_numpy(layer.output_dense.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(y), want, **TOLERANCE["float32"])
    assert isinstance(own, KeyValues) and own.positions is positions


def test_one_softmax_is_over_both_kinds_of_tokens(rng):
    layer = attention()
    (x, positions), (encoded, seen) = tokens(rng, 4), tokens(rng, 5)
    seen = ops.where(ops.arange(5) < 3, seen, -1)
    at = Positions(positions, [LOCAL])
    got = ops.convert_to_numpy(layer(x, at=at, memory=layer.remember(encoded, seen))[0])

    def heads(y, count, norm=None, is_rotated=True):
        y = ops.reshape(y, (2, -1, count, 8))
        y = y if norm is None else norm(y)
        y = ops.swapaxes(y, 1, 2)
        return ops.convert_to_numpy(at.rotate(y, LOCAL) if is_rotated else y)

    query = heads(layer.query(x), 6, layer.query_norm)
    own, of_encoder = (
        heads(layer.key(y), 3, layer.key_norm, is_rotated)
        for y, is_rotated in ((x, True), (encoded, False))
    )
    keys = np.repeat(np.concatenate([own, of_encoder], axis=2), 2, axis=1)
    values = [heads(layer.value(y), 3, is_rotated=False) for y in (x, encoded)]
    values = np.repeat(np.concatenate(values, axis=2), 2, axis=1)
    is_seen = np.concatenate([np.tri(4), np.tile(np.arange(5) < 3, (4, 1))], axis=1)
    weights = np.exp(query @ keys.swapaxes(2, 3) * LOCAL.query_pre_attn_scalar**-0.5) * is_seen
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ values
    want = mixed.swapaxes(1, 2).reshape(2, 4, 48) @ ops.convert_to_numpy(layer.output_dense.kernel)
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


@pytest.mark.parametrize("length", [1, kernels.FEW_QUERIES, kernels.FEW_QUERIES + 1])
def test_a_shared_memory_gives_what_keys_and_values_give(rng, length):
    layer = attention()
    (x, positions), (encoded, seen) = tokens(rng, length), tokens(rng, 5)
    seen = ops.where(ops.arange(5) < 3, seen, -1)
    at = Positions(positions, [LOCAL])
    got, want = (
        layer(x, at=at, memory=memory_of(layer, encoded, seen, is_shared))[0]
        for is_shared in (True, False)
    )
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(y) for y in (got, want)), **TOLERANCE["float32"]
    )


def test_tokens_read_one_after_another_see_what_they_see_together(rng):
    layer = attention(window=Window.causal(3))
    x, positions = tokens(rng, 5)
    whole = ops.convert_to_numpy(layer(x, at=Positions(positions, [LOCAL]))[0])
    past = KeyValues(ops.zeros((2, 3, 5, 8)), ops.zeros((2, 3, 5, 8)), None)
    for i in range(5):
        there = ops.where(ops.arange(5) <= i, positions, -1)
        at = Positions(positions[:, i : i + 1], [LOCAL])
        slot = ops.convert_to_tensor(i, dtype="int32")
        y, past = layer(x[:, i : i + 1], at=at, past=past._replace(positions=there), slot=slot)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], whole[:, i], **TOLERANCE["float32"]
        )


def test_scores_are_scaled_by_the_scalar_of_the_config():
    assert attention().scale == LOCAL.query_pre_attn_scalar**-0.5
    config = dataclasses.replace(LOCAL, query_pre_attn_scalar=64.0)
    assert attention(config).scale == 0.125


def test_a_memory_gives_each_layer_its_own_part():
    projected = Memory((), (("k0", "v0"), ("k1", "v1")), "positions")
    assert projected.of_layer(1) == KeyValues("k1", "v1", "positions")
    shared = Memory(("encoded",), (("n0", "k0", "v0"), ("n1", "k1", "v1")), "positions")
    assert shared.of_layer(0) == SharedMemory("encoded", "n0", "k0", "v0", "positions")
