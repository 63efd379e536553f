"""Rotations of positions: turned pairs, stretched by a factor, and what hangs on distance alone."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import FULL, LOCAL
from tolerances import TOLERANCE

from keras_t5gemma2.model.rotary import Positions

pytestmark = pytest.mark.once


def rotate(x, positions, config):
    at = Positions(ops.convert_to_tensor(positions, dtype="int32"), [LOCAL, FULL])
    return ops.convert_to_numpy(at.rotate(ops.convert_to_tensor(x), config))


@pytest.mark.parametrize("config", [LOCAL, FULL], ids=["local", "stretched"])
def test_pairs_are_turned_by_their_frequency_times_the_position(rng, config):
    x = rng.standard_normal((2, 3, 4, 8), "float32")
    positions = np.array([[0, 1, 2, 3], [-1, 0, 5, 1000]])
    frequencies = 1 / config.rope_theta ** (np.arange(0, 8, 2) / 8) / config.rope_factor
    angles = positions[:, None, :, None] * frequencies
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    want = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, positions, config), want, rtol=1e-4, atol=2e-4)
    np.testing.assert_array_equal(rotate(x, positions, config)[0, :, 0], x[0, :, 0])


def test_products_hang_on_the_distance_of_two_tokens(rng):
    query, key = rng.standard_normal((2, 1, 1, 1, 8), "float32")

    def score(i, j):
        return (rotate(query, [[i]], FULL) * rotate(key, [[j]], FULL)).sum()

    assert score(3, 1) == pytest.approx(score(12, 10), rel=1e-4)
    assert abs(score(3, 1) - score(1, 3)) > 1e-4


def test_layers_of_one_kind_share_their_rotation():
    kinds = [LOCAL, dataclasses.replace(LOCAL, window=3), FULL, LOCAL]
    at = Positions(ops.zeros((1, 2), "int32"), kinds)
    assert len(at._rotations) == 2
    with pytest.raises(KeyError):
        at.rotate(ops.zeros((1, 1, 2, 4)), dataclasses.replace(LOCAL, head_dim=4))


def test_half_precision_is_turned_in_float32_and_rounded_once(rng):
    x = ops.cast(rng.standard_normal((1, 2, 3, 8), "float32"), "bfloat16")
    at = Positions(ops.arange(3, dtype="int32")[None], [LOCAL])
    got = at.rotate(x, LOCAL)
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    want = ops.cast(at.rotate(ops.cast(x, "float32"), LOCAL), "bfloat16")
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(ops.cast(y, "float32")) for y in (got, want)), **TOLERANCE["float16"]
    )
