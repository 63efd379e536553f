"""Attention of rows that are spread over the devices of a mesh."""

import keras
import numpy as np
import pytest
from keras import ops
from meshes import device_mesh
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import reference
from keras_t5gemma2.kernels.attention.dispatch import backend

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="devices of JAX")


def tensor(rng, *shape):
    return ops.convert_to_tensor(rng.standard_normal(shape, "float32"))


@pytest.mark.parametrize("heads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_each_device_computes_its_queries_with_all_keys(rng, heads):
    """And, where the other axis of the mesh divides them, its heads."""
    parts, length = 4, 5
    query = tensor(rng, parts, 2 * heads, length, 8)
    positions = ops.reshape(ops.arange(parts * length, dtype="int32"), (parts, length))
    keys = KeyValues(
        tensor(rng, 1, heads, parts * length, 8),
        tensor(rng, 1, heads, parts * length, 8),
        ops.reshape(positions, (1, -1)),
    )
    mesh = device_mesh(parts, 2).backend_mesh

    def both(query, positions, keys):
        call = query, positions, [(keys, Window.bidirectional(6))], 0.3
        on_shards = backend.attend_on_shards(reference.attend, *call, mesh, "batch")
        return on_shards, reference.attend(*call)

    got, want = kernels.compiled(both, keras.Model())(query, positions, keys)
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])
    assert {shard.data.shape[0] for shard in got.addressable_shards} == {1}
    per_device = {shard.data.shape[1] for shard in got.addressable_shards}
    assert per_device == {6 if heads == 3 else heads}


@pytest.mark.parametrize("has_positions", [True, False])
def test_every_device_has_all_tokens_of_what_is_whole(rng, has_positions):
    mesh = device_mesh(2, 4)
    axes = (None, None, "model", None)
    layout = keras.distribution.TensorLayout(axes, mesh)
    keys, values = (
        keras.distribution.distribute_tensor(tensor(rng, 1, 2, 8, 4), layout) for _ in range(2)
    )
    positions = ops.arange(8, dtype="int32")[None] if has_positions else None
    got = backend.whole(KeyValues(keys, values, positions), mesh.backend_mesh)
    assert isinstance(got, KeyValues) and (got.positions is not None) == has_positions
    for given, whole in ((keys, got.keys), (values, got.values)):
        assert {shard.data.shape[2] for shard in given.addressable_shards} == {2}
        assert {shard.data.shape[2] for shard in whole.addressable_shards} == {8}
        np.testing.assert_array_equal(whole, given)
