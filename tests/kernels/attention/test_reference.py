"""Attention of all scores against its formula, and blocks of tensors."""

import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention.reference import seen as sees
from keras_t5gemma2.kernels.runtime import dispatch as runtime
from keras_t5gemma2.kernels.runtime import reference


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("num_kv_heads", [1, 3, 6])
def test_attention_is_one_softmax_over_all_parts(rng, num_kv_heads, dtype):
    query, own, memory = random_parts(rng, num_kv_heads, dtype)
    positions = np.array([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]], "int32")
    parts = [(own, Window.causal(3)), (memory, Window())]
    got = kernels.attend(ops.cast(query, dtype), ops.convert_to_tensor(positions), parts, 0.3)

    keys, values = (
        np.repeat(
            np.concatenate([numpy32(own[i]), numpy32(memory[i])], axis=2), 6 // num_kv_heads, 1
        )
        for i in (0, 1)
    )
    visible = np.concatenate(
        [numpy32(sees(positions, own.positions, Window.causal(3))), np.zeros((2, 5, 7))], axis=2
    )
    visible[:, :, 5:] = numpy32(memory.positions)[:, None] >= 0
    scores = np.einsum("bnth,bnsh->bnts", numpy32(ops.cast(query, dtype)), keys) * 0.3
    weights = np.exp(scores) * visible[:, None]
    want = np.einsum("bnts,bnsh->bnth", weights / weights.sum(-1, keepdims=True), values)
    np.testing.assert_allclose(numpy32(got), want, **TOLERANCE[dtype])


def test_attention_is_the_sum_of_values_by_their_weights(rng):
    query, own, memory = random_parts(rng, 3, "float32")
    query, positions = ops.convert_to_tensor(query), own.positions
    parts = [(own, Window.causal(3)), (memory, Window())]
    weights = kernels.attention_weights(query, positions, parts, 0.3)
    totals = sum(ops.sum(x, axis=-1) for x in weights)
    np.testing.assert_allclose(ops.convert_to_numpy(totals), 1, rtol=1e-5)
    values = [np.repeat(numpy32(part.values), 2, axis=1) for part, _ in parts]
    want = numpy32(kernels.attend(query, positions, parts, 0.3))
    got = sum(
        np.einsum("bnts,bnsh->bnth", *pair)
        for pair in zip(map(numpy32, weights), values, strict=True)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    hidden = own._replace(positions=ops.full((2, 5), -1, "int32"), values=None)
    (nothing,) = kernels.attention_weights(query, positions, [(hidden, Window())], 0.3)
    np.testing.assert_array_equal(numpy32(nothing), 0)


def test_a_query_that_sees_nothing_gets_zeros(rng):
    query, own, _ = random_parts(rng, 3, "float32")
    positions = ops.convert_to_tensor(np.full((2, 5), -1, "int32"))
    hidden = own._replace(positions=positions)
    got = kernels.attend(ops.convert_to_tensor(query), positions, [(hidden, Window.causal())], 0.3)
    np.testing.assert_array_equal(ops.convert_to_numpy(got), 0.0)


def test_scores_out_of_the_range_of_float16_stay_finite(rng):
    query, own, memory = random_parts(rng, 3, "float16")
    parts = [(own, Window.causal(3)), (memory, Window())]
    got = kernels.attend(ops.cast(query * 1e4, "float16"), own.positions, parts, 1.0)
    assert np.isfinite(numpy32(got)).all()


def random_parts(rng, num_kv_heads, dtype):
    """A query of (2, 6, 5, 8), 5 own tokens, the first of row 0 padding, 7 tokens of memory."""
    query = rng.normal(size=(2, 6, 5, 8)).astype("float32")
    own = np.array([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]], "int32")
    memory = np.array([[0, 1, 2, 3, -1, -1, -1], [-1, 1, 2, 3, 4, 5, 6]], "int32")
    parts = []
    for positions in (own, memory):
        shape = (2, num_kv_heads, positions.shape[1], 8)
        pair = [ops.cast(rng.normal(size=shape).astype("float32"), dtype) for _ in range(2)]
        parts.append(KeyValues(*pair, ops.convert_to_tensor(positions)))
    return query, *parts


def numpy32(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.mark.parametrize("axis", [1, 2])
def test_blocks_take_the_place_of_others(rng, axis):
    x = rng.standard_normal((2, 12, 8, 3), "float32")

    def function(i, block):
        return block * ops.cast(i + 2, "float32"), ops.sum(block)

    y, sums = runtime.map_blocks(function, ops.convert_to_tensor(x), 4, axis)
    blocks = np.split(x, x.shape[axis] // 4, axis)
    want = np.concatenate([block * (i + 2) for i, block in enumerate(blocks)], axis)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), want)
    np.testing.assert_allclose(sums, [block.sum() for block in blocks], rtol=1e-5)


@pytest.mark.parametrize("values", [[3.0, 1.0], [-2.0], [np.nan], [np.inf], [-np.inf], []])
def test_a_zero_of_any_numbers_is_zero(values):
    assert float(reference.zero_after(ops.convert_to_tensor(values, dtype="float32"))) == 0.0
