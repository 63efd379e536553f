"""What JAX makes of gradients of the loss, and how it deals tokens out to devices."""

import keras
import numpy as np
import pytest
from keras import ops
from meshes import distributed
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="the loss of JAX")


@pytest.fixture
def problem(rng):
    """Hidden states (8, 4), a table (13, 4), labels and weights."""
    hidden, table = (
        ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for shape in ((8, 4), (13, 4))
    )
    labels = ops.convert_to_tensor(rng.integers(0, 13, size=8), dtype="int32")
    return hidden, table, labels, ops.convert_to_tensor(rng.uniform(0, 2, 8).astype("float32"))


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=str)
def test_only_the_gradients_that_are_wanted_are_made(problem, wanted):
    import jax

    from keras_t5gemma2.kernels.loss import jax as loss

    def of(hidden, table):
        return loss.sums_over_chunks(hidden, table, *problem[2:], (), None, 4, None)[0]

    # One product is of the logits, and each gradient is one more.
    gradients = jax.make_jaxpr(jax.grad(of, wanted))(*problem[:2])
    assert str(gradients).count("dot_general[") == 1 + len(wanted)
    assert str(jax.make_jaxpr(of)(*problem[:2])).count("dot_general[") == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_gradient_of_a_table_waits_in_the_dtype_that_it_will_have(problem, dtype):
    """Of float16, which has not the range of what is scaled later, in float32."""
    import jax

    from keras_t5gemma2.kernels.loss import jax as loss

    hidden, table = (ops.cast(x, dtype) for x in problem[:2])

    def of(hidden, table):
        return loss.sums_over_chunks(hidden, table, *problem[2:], (), None, 4, None)[0]

    _, backward = jax.vjp(of, hidden, table)
    kept = [leaf.dtype for leaf in jax.tree.leaves(backward) if leaf.shape == table.shape]
    assert kept == ["bfloat16" if dtype == "bfloat16" else "float32"]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_device_has_its_share_of_each_chunk(shards):
    from keras_t5gemma2.kernels.loss import jax as loss

    dealt = loss._dealt(ops.arange(16), 8, shards)
    assert sorted(dealt.tolist()) == list(range(16))
    # Device 0 has the first tokens, and of each chunk of 8 as many as any other.
    per_device = 16 // shards
    for chunk in dealt.reshape(2, 8).tolist():
        devices = [token // per_device for token in chunk]
        assert [devices.count(device) for device in range(shards)] == [8 // shards] * shards


@pytest.mark.slow
def test_tokens_on_several_devices_have_the_same_sums(problem):
    want = kernels.linear_cross_entropy(*problem, 2.0, training=False, chunk_size=4)
    with distributed(2, 1):
        got = kernels.linear_cross_entropy(*problem, 2.0, training=False, chunk_size=2)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE["float32"])
