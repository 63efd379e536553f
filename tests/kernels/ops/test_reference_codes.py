"""Products of few rows with the integers of a table, for decoding steps."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels


@pytest.mark.parametrize("rows", [(1,), (1, 1), (3, 1), (8,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_those_of_the_codes_as_floats(rng, dtype, rows):
    x = ops.cast(rng.standard_normal((*rows, 64)), dtype)
    codes = rng.integers(-128, 128, (48, 64)).astype("int8")
    assert kernels.reads_codes(x)
    found = kernels.times_codes(x, ops.convert_to_tensor(codes))
    want = ops.convert_to_numpy(ops.cast(x, "float32")) @ codes.T.astype("float32") / 1000
    found = ops.convert_to_numpy(ops.cast(found, "float32")) / 1000
    assert found.shape == (*rows, 48)
    np.testing.assert_allclose(found, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("width", [5, 28, 40, 100])
def test_rows_of_codes_may_have_any_width(rng, width):
    """Vectors of 16 numbers would read past their end."""
    x = ops.cast(rng.standard_normal((3, width)), "bfloat16")
    codes = rng.integers(-128, 128, (48, width)).astype("int8")
    found = kernels.times_codes(x, ops.convert_to_tensor(codes))
    want = ops.convert_to_numpy(ops.cast(x, "float32")) @ codes.T.astype("float32")
    found = ops.convert_to_numpy(ops.cast(found, "float32"))
    np.testing.assert_allclose(found / 1000, want / 1000, **TOLERANCE["bfloat16"])


def test_a_row_that_is_not_finite_spoils_no_other(rng):
    x = rng.standard_normal((3, 64)).astype("float32")
    codes = ops.convert_to_tensor(rng.integers(-128, 128, (48, 64)).astype("int8"))
    want = ops.convert_to_numpy(kernels.times_codes(ops.convert_to_tensor(x), codes))
    x[0] = np.nan
    found = ops.convert_to_numpy(kernels.times_codes(ops.convert_to_tensor(x), codes))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], want[1:], rtol=1e-6)


@pytest.mark.parametrize("rows", [(1,), (3, 1), (8,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_with_kernels_are_those_of_their_codes(rng, dtype, rows):
    x = ops.cast(rng.standard_normal((*rows, 64)), dtype)
    codes = rng.integers(-128, 128, (64, 48)).astype("int8")
    found = kernels.product_of_codes(x, ops.convert_to_tensor(codes))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    want = ops.convert_to_numpy(ops.cast(x, "float32")) @ codes.astype("float32") / 1000
    found = ops.convert_to_numpy(ops.cast(found, "float32")) / 1000
    np.testing.assert_allclose(found, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("width", [64, 12, 5])
def test_few_rows_in_bfloat16_and_their_gradients(rng, width):
    """Also of what is trained: nothing that keeps numbers narrow may lose a gradient."""
    kernel = keras.Variable(rng.standard_normal((width, 48)), dtype="bfloat16")
    table = keras.Variable(rng.standard_normal((40, width)), dtype="bfloat16")
    ids = ops.convert_to_tensor([[3, 3, 39]])

    def loss(kernel, table):
        x = kernels.take_rows(table, ids)
        return ops.sum(ops.square(ops.cast(kernels.product(x, kernel), "float32")))

    def exact(kernel, table):
        x = ops.take(table, ids, axis=0)
        return ops.sum(ops.square(ops.matmul(x, kernel)))

    values = [ops.cast(ops.stop_gradient(v.value), "float32") for v in (kernel, table)]
    want = value_and_gradients(exact, values)
    found = value_and_gradients(loss, [kernel.value, table.value], [kernel, table])
    for value, exactly in zip(found, want, strict=True):
        size = np.abs(exactly).max()
        np.testing.assert_allclose(value / size, exactly / size, atol=2**-6)


def value_and_gradients(function, values, variables=()):
    """Of a function of tensors, or of variables that have these values."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        def of_values(*values):
            if not variables:
                return function(*values)
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*variables)

        value, gradients = jax.value_and_grad(of_values, argnums=(0, 1))(*values)
    elif backend == "tensorflow":
        import tensorflow as tf

        sources = [v.value for v in variables] or values
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = function(*(variables or values))
        gradients = map(tf.convert_to_tensor, tape.gradient(value, sources))
    else:
        sources = [v.value for v in variables] or [v.requires_grad_(True) for v in values]
        value = function(*(variables or values))
        value.backward()
        gradients = [v.grad for v in sources]
    return [
        ops.convert_to_numpy(ops.cast(ops.stop_gradient(x), "float32")) for x in (value, *gradients)
    ]


@pytest.mark.once
def test_what_is_trained_or_many_goes_another_way():
    assert not kernels.reads_codes(ops.ones((33, 64)))
    x = ops.ones((1, 64))
    x.requires_grad_(True)
    assert not kernels.reads_codes(x)
