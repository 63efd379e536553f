"""Every kernel of attention against the portable one that forms all scores, and the choice."""

import itertools

import keras
import numpy as np
import pytest
from gradients import relative_error, value_and_gradients
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import blocked
from keras_t5gemma2.kernels.attention import dispatch as attention

WINDOWS = [Window(), Window.causal(), Window.causal(6), Window.bidirectional(7)]
# Two are for the shapes of their devices, and have tests of their own.
OWN_TESTS = ("reference", "splash", "cudnn")
OTHERS = [name for name in attention.KERNELS if name not in OWN_TESTS]
CAPPED = [name for name in OTHERS if attention.KERNELS[name].caps]
# Of the one for GPUs the gradients are compiled there only.
DIFFERENTIABLE = [name for name in OTHERS if name not in ("few", "flex")]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that the lengths here are no multiples of."""
    for name, size in (("QUERIES", 8), ("KEYS_IN_WINDOW", 5), ("KEYS", 6)):
        monkeypatch.setattr(blocked, name, size)
    if keras.config.backend() == "torch":
        from keras_t5gemma2.kernels.attention import torch_flash

        monkeypatch.setattr(torch_flash, "QUERIES", 8)


def random_call(rng, num_kv_heads, length=37, others=29, dtype="float32"):
    """Tensors of queries, own keys and values, and the encoder's; positions of both; a slope.

    Row 0 is padded at the left and sees less of the encoder, row 1 is padded at the right.
    """
    shapes = [(6, length), *[(num_kv_heads, length)] * 2, *[(num_kv_heads, others)] * 2]
    tensors = [rng.standard_normal((2, *shape, 16), "float32") for shape in shapes]
    positions = np.tile(np.arange(length, dtype="int32"), (2, 1))
    positions[0] = np.maximum(positions[0] - 7, -1)
    positions[1, -9:] = -1
    seen = np.tile(np.arange(others, dtype="int32"), (2, 1))
    seen[0, -13:] = -1
    slope = rng.standard_normal((2, 6, length, 16), "float32") * (positions >= 0)[:, None, :, None]
    tensors = [ops.cast(tensor, dtype) for tensor in tensors]
    return tensors, *(ops.convert_to_tensor(x) for x in (positions, seen, slope))


def attend(kernel, tensors, positions, seen, window, cap=None):
    query, keys, values, *memory = tensors
    parts = [(KeyValues(keys, values, positions), window)]
    if memory:
        parts.append((KeyValues(*memory, seen), Window()))
    with kernels.use(kernel):
        return kernels.attend(query, positions, parts, 0.3, cap)


ONCE = pytest.mark.once  # the same formulas, which elsewhere take long to compile


@pytest.mark.compiled
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize(
    ("window", "num_kv_heads"),
    [
        (WINDOWS[2], 3),
        (WINDOWS[3], 1),
        *[pytest.param(*case, marks=ONCE) for case in itertools.product(WINDOWS, [1, 3])],
    ],
    ids=str,
)
def test_outputs_and_gradients(rng, name, num_kv_heads, window):
    tensors, positions, seen, slope = random_call(rng, num_kv_heads)
    if window == WINDOWS[-1]:  # the encoder's, which sees no second part
        tensors = tensors[:3]

    def function(kernel):
        return lambda *tensors: ops.sum(attend(kernel, tensors, positions, seen, window) * slope)

    want, wanted = value_and_gradients(function("reference"), tensors)
    got, gradients = value_and_gradients(function(name), tensors)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-4)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert relative_error(gradient, expected) < 1e-5


@pytest.mark.parametrize("name", ["reference", *CAPPED])
def test_capped_scores(rng, name):
    """Outputs as written out, and gradients as those of the kernel that forms all scores."""
    tensors, positions, seen, slope = random_call(rng, 3)
    window, cap = Window.causal(6), 0.7
    query, keys, values, *memory = map(ops.convert_to_numpy, tensors)
    here, there = ops.convert_to_numpy(positions), ops.convert_to_numpy(seen)
    keys, values = (
        np.concatenate(pair, axis=2) for pair in zip((keys, values), memory, strict=True)
    )
    scores = np.einsum("bnth,bnsh->bnts", query * 0.3, np.repeat(keys, 2, axis=1))
    before = here[:, :, None] - here[:, None]
    is_seen = (here[:, None] >= 0) & (before >= 0) & (before < 6)
    is_seen = np.concatenate([is_seen, np.repeat(there[:, None] >= 0, 37, axis=1)], axis=2)[:, None]
    weights = np.where(is_seen, np.exp(cap * np.tanh(scores / cap)), 0.0)
    weights /= weights.sum(axis=-1, keepdims=True)
    want = np.einsum("bnts,bnsh->bnth", weights, np.repeat(values, 2, axis=1))
    is_there = here >= 0
    got = ops.convert_to_numpy(attend(name, tensors, positions, seen, window, cap))
    got, want = (x.swapaxes(1, 2)[is_there] for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    if name not in DIFFERENTIABLE:
        return

    def function(kernel):
        return lambda *x: ops.sum(attend(kernel, x, positions, seen, window, cap) * slope)

    _, wanted = value_and_gradients(function("reference"), tensors)
    _, gradients = value_and_gradients(function(name), tensors)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert relative_error(gradient, expected) < 1e-5


def test_kernels_that_cannot_cap_scores_are_not_chosen(rng):
    tensors, positions, seen, _ = random_call(rng, 3)
    parts = [(KeyValues(*tensors[1:3], positions), Window.causal())]
    assert attention.choose(tensors[0], parts, 50.0).caps
    for name, kernel in attention.KERNELS.items():
        if not kernel.caps:
            with pytest.raises(ValueError, match=f"caps scores, .*Received: {name}, and cap=50.0"):
                attend(name, tensors, positions, seen, Window.causal(), 50.0)
    long = ops.zeros((1, 4, 300, 8))
    chosen = attention.choose(long, [(KeyValues(long, long, None), Window())], 50.0)
    assert chosen is attention.KERNELS["blocked"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=ONCE)])
def test_half_precision(rng, name, dtype):
    tensors, positions, seen, _ = random_call(rng, 3, dtype=dtype)
    got, want = (
        ops.convert_to_numpy(ops.cast(attend(kernel, tensors, positions, seen, window), "float32"))
        for window in [Window.causal(6)]
        for kernel in (name, "reference")
    )
    there = ops.convert_to_numpy(positions) >= 0
    assert np.isfinite(got).all()
    np.testing.assert_allclose(
        got.swapaxes(1, 2)[there], want.swapaxes(1, 2)[there], **TOLERANCE[dtype]
    )


@pytest.mark.once
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_rows_that_share_a_memory(rng, name, length, window):
    tensors, positions, seen, _ = random_call(rng, 3, length, others=11)
    tensors[3:] = [tensor[1:] for tensor in tensors[3:]]  # both rows see that of the second
    positions = ops.convert_to_tensor(np.arange(3, 3 + length) * [[1], [2]], dtype="int32")
    got, want = (
        ops.convert_to_numpy(attend(kernel, tensors, positions, seen[1:], window))
        for kernel in (name, "reference")
    )
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


@pytest.mark.once
@pytest.mark.parametrize("name", OTHERS)
def test_queries_that_see_nothing_get_zeros(rng, name):
    tensors, positions, seen, _ = random_call(rng, 1)
    hidden = ops.full_like(seen, -1)
    got = attend(name, tensors, positions, hidden, Window.causal(6))
    there = ops.convert_to_numpy(positions) >= 0
    got = ops.convert_to_numpy(got).swapaxes(1, 2)
    assert (got[~there] == 0).all()
    assert (got[there] != 0).all()


@pytest.mark.once
@pytest.mark.parametrize("name", OTHERS)
def test_single_queries_and_keys(rng, name):
    for length, others in ((1, 29), (9, 1), (1, 1)):
        tensors, positions, seen, _ = random_call(rng, 2, length, others)
        positions, seen = (ops.zeros_like(x) for x in (positions, seen))
        got, want = (
            ops.convert_to_numpy(attend(kernel, tensors, positions, seen, Window.causal()))
            for kernel in (name, "reference")
        )
        np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("length", "keys", "kernels"),
    [
        (1, 9000, {"reference", "few"}),
        (100, 100, {"reference"}),
        (9, 9000, {"blocked", "flash"}),
    ],
)
def test_the_table_takes_all_scores_at_once_where_they_are_few(length, keys, kernels):
    query, other = ops.zeros((1, 4, length, 8)), ops.zeros((1, 1, keys, 8))
    parts = [(KeyValues(other, other, None), Window())]
    chosen = attention.choose(query, parts)
    assert any(chosen is attention.KERNELS.get(name) for name in kernels)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_gradients_reach_what_few_queries_see(rng, trained):
    """Also where the queries themselves are fixed, as in front of the first adapter."""
    tensors = random_call(rng, 3, 5)[0][:3]
    positions = ops.convert_to_tensor([[0, 1, 2, 3, 4], [-1, 0, 1, 2, 3]], dtype="int32")

    def function(x):
        seen = [*tensors[:trained], x, *tensors[trained + 1 :]]
        parts = [(KeyValues(*seen[1:], positions), Window.causal())]
        return ops.sum(ops.square(kernels.attend(seen[0], positions, parts, 0.3)))

    def reference(x):
        with kernels.use("reference"):
            return function(x)

    _, (got,) = value_and_gradients(function, [tensors[trained]])
    _, (want,) = value_and_gradients(reference, [tensors[trained]])
    assert relative_error(got, want) < 1e-5


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="name='flush'"), kernels.use("flush"):
        pass
