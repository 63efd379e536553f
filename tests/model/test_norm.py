"""The norm of the text stacks: its first scale, and the dtypes that it takes and gives."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.model.norm import RMSNorm

pytestmark = pytest.mark.once


def test_a_new_norm_only_makes_rows_as_long_as_the_root_of_their_width(rng):
    x = 10 * rng.standard_normal((2, 3, 16), "float32")
    norm = RMSNorm(1e-6)
    y = ops.convert_to_numpy(norm(x))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 4.0, rtol=1e-5)
    np.testing.assert_allclose(y / x, np.broadcast_to(y[..., :1] / x[..., :1], x.shape), rtol=1e-4)
    norm.scale.assign(np.full(16, -1.0))
    assert not ops.convert_to_numpy(norm(x)).any()


def test_epsilon_keeps_small_rows_small():
    y = RMSNorm(epsilon=3.0)(ops.ones((1, 1, 4)))
    np.testing.assert_allclose(ops.convert_to_numpy(y), 0.5, rtol=1e-6)


def test_float16_takes_sums_of_float32_as_they_are():
    """They may be past the range of float16, and are normed before they are rounded."""
    norm = RMSNorm(1e-6, dtype="float16")
    y = norm(ops.convert_to_tensor([[[3e5, -4e5]]]))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(
        ops.convert_to_numpy(y)[0, 0], np.array([0.6, -0.8]) * 2**0.5, rtol=1e-3
    )
    assert keras.backend.standardize_dtype(norm(y, dtype="float32").dtype) == "float32"
