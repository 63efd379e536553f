"""Windows against written-out matrices, attention against its formula, caches against sequences."""

import types

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation import cache
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention.reference import seen as sees
from keras_t5gemma2.kernels.runtime import dispatch as runtime
from keras_t5gemma2.kernels.runtime import reference


def seen(window, length=7):
    positions = ops.arange(length, dtype="int32")[None]
    return ops.convert_to_numpy(sees(positions, positions, window))[0].astype(int)


def test_causal_window_of_three():
    assert seen(Window.causal(3)).tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1],
    ]


def test_bidirectional_window_of_four_sees_one_more_to_the_right():
    assert seen(Window.bidirectional(4)).tolist() == [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_bidirectional_window_of_three():
    assert seen(Window.bidirectional(3), 4).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
    ]


def test_no_window():
    assert seen(Window.causal()).tolist() == np.tril(np.ones((7, 7), int)).tolist()
    assert seen(Window.bidirectional()).all()


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


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 11])
def test_a_packed_ring_holds_the_last_tokens_in_their_slots(rng, length):
    tokens = random_tokens(rng, 2, length)
    ring = cache.pack(tokens, 4)
    for slot, position in enumerate(ops.convert_to_numpy(ring.positions)[0]):
        if position < 0:
            assert slot >= length
            continue
        assert position % 4 == slot and length - 4 <= position < length
        for held, given in ((ring.keys, tokens.keys), (ring.values, tokens.values)):
            np.testing.assert_array_equal(numpy32(held)[:, :, slot], numpy32(given)[:, :, position])
    assert (ops.convert_to_numpy(ring.positions) >= 0).sum() == 2 * min(length, 4)


def test_write_puts_tokens_into_slots(rng):
    past, fresh = random_tokens(rng, 2, 5), random_tokens(rng, 2, 1)
    before = [numpy32(leaf).copy() for leaf in past]
    after = kernels.write(past, fresh, ops.convert_to_tensor(3, dtype="int32"))
    for old, new, one in zip(before[:2], after[:2], fresh[:2], strict=True):
        np.testing.assert_array_equal(numpy32(new)[:, :, 3], numpy32(one)[:, :, 0])
        rest = [0, 1, 2, 4]
        np.testing.assert_array_equal(numpy32(new)[:, :, rest], old[:, :, rest])
    np.testing.assert_array_equal(numpy32(after.positions), before[2])


def test_write_puts_several_tokens_into_slots_past_the_end_of_a_ring(rng):
    past, fresh = random_tokens(rng, 3, 5), random_tokens(rng, 3, 3)
    before = [numpy32(leaf).copy() for leaf in past]
    after = kernels.write(past, fresh, ops.convert_to_tensor([4, 0, 1], dtype="int32"))
    for old, new, three in zip(before[:2], after[:2], fresh[:2], strict=True):
        np.testing.assert_array_equal(numpy32(new)[:, :, [4, 0, 1]], numpy32(three))
        np.testing.assert_array_equal(numpy32(new)[:, :, [2, 3]], old[:, :, [2, 3]])


def random_tokens(rng, num_kv_heads, length):
    shape = (2, num_kv_heads, length, 8)
    positions = np.broadcast_to(np.arange(length, dtype="int32"), (2, length))
    return KeyValues(
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32")),
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32")),
        ops.convert_to_tensor(positions.copy()),
    )


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


@pytest.mark.skipif(keras.config.backend() != "torch", reason="arrays elsewhere lie row by row")
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_trained_lies_row_by_row_on_every_device(device):
    import torch

    variable = types.SimpleNamespace(value=torch.empty((5, 3), device=device).t())
    kernels.lay_out(variable, for_steps=False)
    assert variable.value.is_contiguous()
    kernels.lay_out(variable, for_steps=True)
    assert variable.value.is_contiguous() == (device != "cpu")


def test_the_first_of_equal_numbers_is_the_highest():
    x = ops.convert_to_tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 1.0, 3.0, 3.0]])
    assert ops.convert_to_numpy(kernels.argmax(x)).tolist() == [1, 0]


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
