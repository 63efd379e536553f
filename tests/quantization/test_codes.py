"""Float matrices to integers: what they stand for, in any layout, in any pieces."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.quantization import codes as arrays
from keras_t5gemma2.quantization.codes import Scheme, quantized

pytestmark = pytest.mark.once

SCHEMES = [Scheme(8), Scheme(4), Scheme(4, 5), Scheme(4, 8), Scheme(4, 64)]


def matrix(rows=23, columns=17, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 3, size=(rows, 1)) * rng.uniform(0.1, 3, size=columns)
    return (rng.normal(size=(rows, columns)) * scale).astype("float32")


def restored(found, scheme, axis, shape):
    """The matrix that codes stand for, and the step between two of its numbers, written out."""
    codes = found.codes
    if scheme.bits == 4:
        low, high = codes.astype("int32") & 15, codes.astype("int32") >> 4
        codes = np.stack([(low ^ 8) - 8, high], axis=-1).reshape(shape[0], -1)[:, : shape[1]]
    codes, scale = codes.astype("float32"), found.scale.astype("float32")
    if scheme.block is None:
        scale = np.expand_dims(scale, axis)
        return codes / scale, np.broadcast_to(1 / scale, shape)
    block = np.arange(shape[axis]) // scheme.block
    scale, zero = np.take(scale, block, axis), np.take(found.zero.astype("float32"), block, axis)
    return (codes - zero) * scale, scale


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_number_is_within_half_a_step(scheme, axis):
    wanted = matrix()
    found = quantized(wanted, scheme, axis, "float32")
    got, step = restored(found, scheme, axis, wanted.shape)
    assert np.all(np.abs(got - wanted) <= 0.5001 * step)
    assert found.codes.shape == ((23, 9) if scheme.bits == 4 else (23, 17))
    largest = 2**scheme.bits - 2 if scheme.block is None and scheme.bits == 8 else 15
    steps = np.abs(wanted).max() / step[np.unravel_index(np.abs(wanted).argmax(), wanted.shape)]
    assert steps <= largest  # as many steps as there are codes: none is wasted
    assert steps >= largest / 2 - 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_and_layouts_change_nothing(scheme, axis, order, monkeypatch):
    whole = quantized(matrix(), scheme, axis, "float32")
    released = []
    monkeypatch.setattr(arrays, "_NUMBERS_AT_A_TIME", 40)
    source = np.asarray(matrix(), order=order)
    source.flags.writeable = False
    found = quantized(source, scheme, axis, "float32", release=lambda: released.append(1))
    assert len(released) >= 4 or scheme.block == 64
    for one, other in zip(found, whole, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_precision_is_no_coarser_than_its_own_numbers(scheme):
    """The codes go by the scale as it is rounded, and products are those of float32."""
    values = matrix().astype(ml_dtypes.bfloat16)
    found = quantized(values, scheme, 0, "bfloat16")
    assert found.scale.dtype == ml_dtypes.bfloat16
    wanted = values.astype("float32")
    got, step = restored(found, scheme, 0, wanted.shape)
    # A rounded scale can leave the largest number of a column outside by a few steps of 256.
    assert np.all(np.abs(got - wanted) <= 0.5001 * step + 2**-8 * np.abs(wanted).max(axis=0))


def test_the_integers_of_columns_are_those_of_keras():
    wanted, scale = keras.quantizers.abs_max_quantize(matrix(), axis=0, epsilon=0.0, to_numpy=True)
    found = quantized(matrix(), Scheme(8), 0, "float32")
    np.testing.assert_array_equal(found.codes, ops.convert_to_numpy(wanted))
    np.testing.assert_allclose(found.scale, ops.convert_to_numpy(scale)[0], rtol=1e-6)


def test_the_bytes_of_four_bits_are_those_of_keras():
    found = quantized(matrix(), Scheme(4, 8), 0, "float32")
    codes = keras.quantizers.unpack_int4(ops.convert_to_tensor(found.codes), 17, axis=-1)
    codes = ops.convert_to_numpy(codes)
    packed, *_ = keras.quantizers.pack_int4(ops.convert_to_tensor(codes), axis=-1)
    np.testing.assert_array_equal(found.codes, ops.convert_to_numpy(packed))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_columns_of_zeros_and_of_one_sign(scheme):
    values = np.zeros((8, 3), "float32")
    values[:, 1], values[:, 2] = np.linspace(5, 6, 8), -0.25
    found = quantized(values, scheme, 0, "float32")
    got, step = restored(found, scheme, 0, values.shape)
    assert np.all(got[:, 0] == 0)
    np.testing.assert_array_less(np.abs(got - values), 0.5001 * step + 1e-7)


def test_scales_that_float16_cannot_hold():
    found = quantized(np.full((3, 2), 1e-6, "float32"), Scheme(8), 0, "float16")
    assert np.isfinite(found.scale).all()
