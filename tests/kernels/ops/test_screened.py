"""The largest logits out of a copy of the table in 8 bits: those of the whole product."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.ops import screened
from keras_t5gemma2.kernels.ops.screened import Screen

WIDTH = 32


def tables():
    """Tables that are hard to screen; products of whole numbers are equal to the bit."""
    rng = np.random.default_rng(0)
    usual = rng.standard_normal((1024, WIDTH))
    huge = usual.copy()
    huge[::97] *= 1e6
    beyond = usual.copy()
    beyond[[5, 700]] *= 1e30
    whole = rng.integers(-3, 4, (1024, WIDTH)).astype(float)
    ties = whole.copy()
    ties[512:] = ties[:512]
    nan, infinite = usual.copy(), usual.copy()
    nan[300, 7], infinite[301, 7] = np.nan, np.inf
    empty = np.zeros_like(usual)
    tiny = usual * 1e-38
    few = usual.copy()
    few[100:] = 0
    spiky = usual * np.where(rng.random(usual.shape) < 0.05, 1000, 1)
    tables = {
        "usual": usual,
        "huge": huge,
        "beyond": beyond,
        "whole": whole,
        "ties": ties,
        "all equal": np.ones_like(usual),
        "nan": nan,
        "infinite": infinite,
        "empty": empty,
        "tiny": tiny,
        "few": few,
        "spiky": spiky,
        "one row": usual[:1],
        "three rows": whole[:3],
        "odd": whole[:1023],
        "twice odd": usual[:1022],
    }
    return {name: table.astype("float32") for name, table in tables.items()}


def states(rows, is_whole):
    rng = np.random.default_rng(rows)
    x = rng.integers(-3, 4, (rows, WIDTH)) if is_whole else rng.standard_normal((rows, WIDTH))
    return x.astype("float32")


@functools.cache
def function(most=1):
    """Compiled for each set of shapes, where the backend compiles steps."""

    def run(x, value, counts):
        screen = kernels.screen_of(value)
        found = kernels.screened_logits(x, value, screen, most, counts if most > 1 else None)
        return found.logits, found.is_full, kernels.logits(x, value)

    if keras.config.backend() == "jax":
        import jax

        return jax.jit(run)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(run, jit_compile=True)
    return run


def screened_logits(x, table, most=1, counts=0, dtype="float32"):
    """The largest logits, whether they are all, and all logits, as numpy arrays."""
    tensors = ops.convert_to_tensor(x), ops.cast(table, dtype), ops.convert_to_tensor(counts)
    return [ops.convert_to_numpy(found) for found in function(most)(*tensors)]


def slow_if_compiled(*values):
    """Parameters that need programs of their own."""
    marks = [pytest.mark.slow] if keras.config.backend() != "torch" else []
    return [pytest.param(value, marks=marks) for value in values]


OTHER_SHAPES = ("one row", "three rows", "odd", "twice odd")
USUAL_SHAPE = [name for name in tables() if name not in OTHER_SHAPES]


@pytest.mark.parametrize("rows", [3, *slow_if_compiled(1, 8)])
@pytest.mark.parametrize("name", [*USUAL_SHAPE, *slow_if_compiled(*OTHER_SHAPES)])
def test_the_largest_logit_is_the_first_one_of_the_whole_product(name, rows):
    x = states(rows, name in ("whole", "ties", "all equal", "three rows", "odd"))
    found, is_full, full = screened_logits(x, tables()[name])
    finite = np.isfinite(full.sum(axis=1))
    broken = ~(found.sum(axis=1) < np.inf)
    np.testing.assert_array_equal(broken, ~(full.sum(axis=1) < np.inf))
    np.testing.assert_array_equal(found[finite].argmax(axis=1), full[finite].argmax(axis=1))
    kept = np.isfinite(found)
    np.testing.assert_allclose(found[kept], full[kept], rtol=1e-4, atol=1e-5)
    assert (found[~kept & np.isfinite(full)] == -np.inf).all()
    if name in ("nan", "infinite", "beyond", "all equal", "empty", "tiny"):
        assert is_full
    if name in ("usual", "huge", "few"):
        assert not is_full and kept.mean() < 0.2


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30, 1e-30])
def test_states_that_are_not_usual_get_the_whole_product(value):
    x = states(3, False)
    x[1] *= value
    table = tables()["usual"]
    found, is_full, full = screened_logits(x, table)
    if value != 1e-30:
        assert is_full
        np.testing.assert_array_equal(found, full)
    usual = np.isfinite(full).all(axis=1)
    np.testing.assert_array_equal(found[usual].argmax(axis=1), full[usual].argmax(axis=1))


@pytest.mark.parametrize("name", [*slow_if_compiled("usual", "ties", "one row", "odd")])
def test_the_k_largest_are_there(name):
    rows, counts = 3, np.array([[1], [7], [20]], "int32")
    x = states(rows, name in ("ties", "odd"))
    found, _, full = screened_logits(x, tables()[name], 20, counts)
    for one, whole, (count,) in zip(found, full, counts, strict=True):
        least = np.sort(whole)[-min(count, len(whole))]
        np.testing.assert_allclose(one[whole >= least], whole[whole >= least], rtol=1e-5)


@pytest.mark.parametrize("rows", slow_if_compiled(1, 4))
def test_in_bfloat16_the_largest_are_those_of_its_product(rows):
    x, table = states(rows, True), tables()["whole"]
    found, _, full = screened_logits(x, table, dtype="bfloat16")
    np.testing.assert_array_equal(found.argmax(axis=1), full.argmax(axis=1))
    x, table = states(rows, False), tables()["usual"]
    found, is_full, full = screened_logits(x, table, dtype="bfloat16")
    assert not is_full
    np.testing.assert_array_equal(found.argmax(axis=1), full.argmax(axis=1))


@pytest.mark.once
def test_no_logit_is_outside_of_its_bounds():
    table = tables()["usual"]
    screen = Screen(*map(ops.convert_to_numpy, kernels.screen_of(ops.convert_to_tensor(table))))
    rows = table.astype("float64")
    rest = np.linalg.norm(rows - screen.codes * screen.scales[:, None].astype("float64"), axis=1)
    assert (screen.errors >= rest).all() and (screen.errors < 1.1 * rest + 1e-3).all()
    assert (screen.norms >= np.linalg.norm(rows, axis=1)).all()
    assert np.abs(screen.codes).max() == 127

    x = states(8, False)
    tensors = Screen(*map(ops.convert_to_tensor, screen))
    lower, upper, is_safe = screened.bounds(
        ops.convert_to_tensor(x), ops.convert_to_tensor(table), tensors, times_floats
    )
    exact = x.astype("float64") @ rows.T
    assert bool(is_safe)
    assert (ops.convert_to_numpy(lower) <= exact).all()
    assert (ops.convert_to_numpy(upper) >= exact).all()


def times_floats(x, codes):
    return ops.matmul(x, ops.transpose(ops.cast(codes, "float32")))


@pytest.mark.once
def test_states_of_several_tokens_keep_their_shape():
    x = states(6, False).reshape(2, 3, WIDTH)
    found, _, full = screened_logits(x, tables()["usual"])
    assert found.shape == full.shape == (2, 3, 1024)
    np.testing.assert_array_equal(found.argmax(axis=-1), full.argmax(axis=-1))
