"""Products, norms, rotations and activations of each backend against their formulas."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.ops import dispatch, reference

BOTH = [dispatch, reference]
BY_NAME = {"ids": ["backend", "reference"]}


def numpy32(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(rng, *shape, dtype="float32"):
    return ops.cast(rng.standard_normal(shape, "float32"), dtype)


@pytest.mark.parametrize("count", [1, 2, 4, 8, 32, 33])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [24, 22])
def test_products_are_the_same_for_any_number_of_rows(rng, count, dtype, width):
    """And wherever the numbers of the matrix lie in memory."""
    x = rng.standard_normal((count, 1, width), "float32")
    matrix = rng.standard_normal((width, 40), "float32") / 5
    tensor = ops.cast(x, dtype)
    want = ops.convert_to_numpy(ops.cast(tensor, "float32"))
    kernel, table = (keras.Variable(m, dtype=dtype) for m in (matrix, matrix.T))
    want = want @ ops.convert_to_numpy(ops.cast(kernel, "float32"))
    results = [kernels.product(tensor, kernel), kernels.logits(tensor, table)]
    kernels.lay_out(kernel, for_steps=True)
    results.append(kernels.product(tensor, kernel))
    for result, name in zip(results, (dtype, "float32", dtype), strict=True):
        assert keras.backend.standardize_dtype(result.dtype) == name
        result = ops.convert_to_numpy(ops.cast(result, "float32"))
        np.testing.assert_allclose(result, want, **TOLERANCE[dtype])
    np.testing.assert_array_equal(kernels.argmax(results[1]), ops.argmax(results[1], axis=-1))


def test_the_first_of_equal_numbers_is_the_highest():
    x = ops.convert_to_tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 1.0, 3.0, 3.0]])
    assert ops.convert_to_numpy(kernels.argmax(x)).tolist() == [1, 0]


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
def test_norm_is_of_length_root_of_the_width_times_one_plus_scale(rng, operations):
    x, scale = 30 * rng.standard_normal((2, 3, 8)), rng.standard_normal(8)
    variable = keras.Variable(scale.astype("float32"))
    got = operations.rms_norm(ops.cast(x, "float32"), variable, 1e-6, "bfloat16")
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    want = x / np.linalg.norm(x, axis=-1, keepdims=True) * math.sqrt(8) * (1 + scale)
    np.testing.assert_allclose(numpy32(got), want, rtol=5e-3)
    nothing = operations.rms_norm(ops.zeros((1, 1, 8)), variable, 1e-6, "float32")
    np.testing.assert_array_equal(numpy32(nothing), 0.0)


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
def test_norm_of_float16_is_of_squares_that_float16_has_not(operations):
    variable = keras.Variable(np.zeros(2, "float32"))
    x = ops.convert_to_tensor([[[3000.0, -4000.0]]], dtype="float16")
    got = numpy32(operations.rms_norm(x, variable, 1e-6, "float16"))[0, 0]
    np.testing.assert_allclose(got, np.array([0.6, -0.8]) * math.sqrt(2), rtol=1e-3)


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
def test_heads_are_pieces_of_the_width(operations):
    x = ops.reshape(ops.arange(12), (1, 2, 6))
    heads = operations.split_heads(x, 2)
    assert numpy32(heads).tolist() == [[[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]]
    assert numpy32(operations.merge_heads(heads)).tolist() == numpy32(x).tolist()


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
def test_a_rotation_turns_a_pair_as_a_complex_number(rng, operations):
    x, angles = rng.standard_normal((2, 3, 4, 6)), rng.standard_normal((2, 1, 4, 3))
    cos, sin = np.cos(angles), np.sin(angles)
    tables = np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)
    got = operations.rotate(*(ops.cast(array, "float32") for array in (x, *tables)))
    want = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    np.testing.assert_allclose(
        numpy32(got), np.concatenate([want.real, want.imag], axis=-1), **TOLERANCE["float32"]
    )


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gated_is_gelu_of_the_one_times_the_other(rng, operations, dtype):
    gate, up = random(rng, 2, 3, 8, dtype=dtype), random(rng, 2, 3, 8, dtype=dtype)
    got, sizes = operations.gated(gate, up)
    assert sizes == () and keras.backend.standardize_dtype(got.dtype) == dtype
    x = numpy32(gate)
    gelu = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(numpy32(operations.gelu(gate)), gelu, **TOLERANCE[dtype])
    np.testing.assert_allclose(numpy32(got), gelu * numpy32(up), **TOLERANCE[dtype])


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
def test_gated_of_float16_divides_tokens_that_float16_is_too_short_for(operations):
    gate = ops.convert_to_tensor([[[400.0, -1.0, 3.0], [0.5, 0.25, 0.0]]], dtype="float16")
    up = ops.convert_to_tensor([[[500.0, 2.0, -7.0], [1.0, 0.5, 4.0]]], dtype="float16")
    got, (size,) = operations.gated(gate, up)
    assert keras.backend.standardize_dtype(got.dtype) == "float16"
    assert numpy32(size)[..., 0].tolist() == [[200_000.0, 1.0]]
    whole = numpy32(got) * numpy32(size)
    want = numpy32(operations.gelu(ops.cast(gate, "float32"))) * numpy32(up)
    # Beside the largest of a token the others are rounded as coarsely as it.
    np.testing.assert_allclose(whole[0, 0], want[0, 0], atol=200_000 * 2**-11)
    np.testing.assert_allclose(whole[0, 1], want[0, 1], rtol=2e-3)


@pytest.mark.once
@pytest.mark.parametrize("operations", BOTH, **BY_NAME)
@pytest.mark.parametrize(("length", "count"), [(4, 1), (8, 2), (12, 3), (3, 1), (1, 1)])
def test_pieces_are_put_together_in_their_order(rng, operations, length, count):
    x, sizes = random(rng, 2, length, 3), []

    def function(piece):
        sizes.append(piece.shape[1])
        return ops.cast(piece * 2.0, "float16")

    got = operations.by_pieces(function, x, 4)
    assert keras.backend.standardize_dtype(got.dtype) == "float16"
    np.testing.assert_allclose(numpy32(got), 2 * numpy32(x), **TOLERANCE["float16"])
    assert max(sizes) <= 4 and (count == 1) == (sizes == [length])


@pytest.mark.skipif(keras.config.backend() == "torch", reason="torch has products of its own")
def test_few_rows_are_multiplied_slice_by_slice_in_float32_only(rng, monkeypatch):
    """On a CPU; what is rounded after each slice would be another number in half precision."""
    calls = []
    einsum = ops.einsum
    monkeypatch.setattr(ops, "einsum", lambda *args: calls.append(args[0]) or einsum(*args))
    kernel = keras.Variable(rng.standard_normal((16, 5), "float32"))
    for rows, dtype, sliced in ((8, "float32", 1), (9, "float32", 0), (1, "bfloat16", 0)):
        calls.clear()
        reference.product(random(rng, rows, 16, dtype=dtype), ops.cast(kernel, dtype))
        assert len(calls) == sliced
