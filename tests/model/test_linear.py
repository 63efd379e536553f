"""The matrices of the model, as its other layers make and see them."""

import numpy as np
import pytest
from keras import layers, ops

from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.model import linear

pytestmark = pytest.mark.once


class Owner(layers.Layer):
    """With a layer of each kind."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = linear.linear(self, "first", 5)
        self.inner = [linear.linear(self, "second", 3), linear.vision_linear(self, "seen", 4)]
        self.table = linear.embedding_table(self, "table", 7, 2, 1.5)


def test_layers_have_the_name_the_policy_and_the_bias_of_their_kind():
    owner = Owner(dtype="mixed_bfloat16")
    for layer, name, has_bias in ((owner.first, "first", False), (owner.inner[1], "seen", True)):
        layer.build((None, 6))
        assert (layer.name, layer.use_bias) == (name, has_bias)
        assert layer.dtype_policy.name == "mixed_bfloat16"
        assert tuple(layer.kernel.shape) == (6, layer.units)
    assert not linear.vision_linear(owner, "projection", 4, use_bias=False).use_bias


def test_linears_are_those_of_the_text_stacks_at_any_depth():
    owner = Owner()
    found = linear.linears(owner)
    assert sorted(layer.name for layer in found) == ["first", "second"]
    assert all(isinstance(layer, Dense) for layer in found)
    assert linear.linears(layers.Dense(3)) == []


def test_the_effective_kernel_is_what_gives_the_output(rng):
    """Adapters included, which the kernel itself knows nothing of."""
    layer = linear.linear(Owner(), "some", 5)
    layer.build((None, None, 6))
    x = rng.standard_normal((2, 3, 6), "float32")
    y = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(y, x @ ops.convert_to_numpy(layer.effective_kernel()), rtol=1e-5)
    assert layer.use_bias is False and np.std(y) > 0.01


def test_a_table_gives_vectors_of_ids_and_bent_logits_of_vectors(rng):
    table = Owner().table
    table.build()
    values = rng.standard_normal((7, 2), "float32")
    table.embeddings.assign(values)
    vectors = ops.convert_to_numpy(table(np.array([[6, 0]])))
    np.testing.assert_array_equal(vectors, values[None, [6, 0]])
    x = rng.standard_normal((1, 3, 2), "float32")
    logits = ops.convert_to_numpy(table(ops.convert_to_tensor(x), reverse=True))
    np.testing.assert_allclose(logits, 1.5 * np.tanh(x @ values.T / 1.5), rtol=1e-4, atol=1e-6)
