"""What JAX keeps of an operation, and what it rounds, beside the same numbers."""

import keras
import numpy as np
import pytest
from gradients import relative_error, value_and_gradients
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.ops import reference

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="operations of JAX")


def test_logits_of_half_precision_are_summed_and_not_rounded():
    # In bfloat16 256 + 1 is 256, and so is what it would be rounded to.
    x, table = ops.ones((1, 3), "bfloat16"), ops.array([[256.0, 0.5, 0.5]], "bfloat16")
    got = kernels.logits(x, table)
    assert got.dtype == "float32" and got.tolist() == [[257.0]]
    got = kernels.logits(ops.cast(x, "float32"), keras.Variable(table, dtype="bfloat16"))
    assert got.tolist() == [[257.0]]


def test_the_norm_keeps_its_input_and_no_more(rng):
    import jax

    scale = ops.convert_to_tensor(rng.standard_normal(64, "float32"))
    x = ops.convert_to_tensor(rng.standard_normal((2, 32, 64), "float32"))

    def kept(norm):
        _, backward = jax.vjp(lambda x, scale: norm(x, scale, 1e-6, "float32"), x, scale)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(kernels.rms_norm) == x.size + scale.size
    assert kept(reference.rms_norm) > x.size + scale.size


def test_the_norm_has_the_gradient_of_the_reference(rng):
    tensors = [
        ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for shape in ((2, 3, 8), (8,))
    ]
    slope = rng.standard_normal((2, 3, 8), "float32")

    def function(norm):
        return lambda x, scale: ops.sum(norm(x, scale, 1e-6, "float32") * slope)

    got, gradients = value_and_gradients(function(kernels.rms_norm), tensors)
    want, wanted = value_and_gradients(function(reference.rms_norm), tensors)
    assert got == pytest.approx(want, rel=1e-5)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert relative_error(gradient, expected) < 1e-5


@pytest.mark.parametrize("length", [4, 6, 12])
def test_pieces_may_be_wider_numbers_than_their_input(rng, length):
    """Whole ones; else all is computed at once."""
    x = ops.cast(rng.standard_normal((2, length, 3), "float32"), "bfloat16")
    got = kernels.by_pieces(lambda piece: ops.cast(piece, "float32") / 3, x, 4)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, ops.cast(x, "float32") / 3, rtol=1e-6)
