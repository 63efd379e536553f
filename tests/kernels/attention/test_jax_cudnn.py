"""cuDNN's kernel for a vision tower, here by JAX's own formulas, and what it is for."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="a kernel of JAX")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cudnn_s_layout_of_a_vision_tower(rng, dtype):
    """As it is called there, though here by JAX's own formulas."""
    arrays = [rng.standard_normal((2, 4, 37, 72), "float32") for _ in range(3)]
    query, keys, values = (ops.cast(x, dtype) for x in arrays)
    parts = [(KeyValues(keys, values, None), Window())]
    with kernels.use("cudnn"):
        got = kernels.attend(query, None, parts, 0.3)
    with kernels.use("reference"):
        want = kernels.attend(query, None, parts, 0.3)
    got, want = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (got, want))
    np.testing.assert_allclose(got, want, **TOLERANCE[dtype])


def test_what_cudnn_is_for():
    from keras_t5gemma2.kernels.attention import jax_cudnn

    def can(width, positions=None, dtype="bfloat16", count=1):
        x = ops.zeros((1, 4, 9, width), dtype)
        return jax_cudnn.why_not(x, [(KeyValues(x, x, positions), Window())] * count) is None

    assert can(72) and can(128)
    assert not can(72, dtype="float32") and not can(256) and not can(36)
    assert not can(72, positions=ops.zeros((1, 9), "int32")) and not can(72, count=2)
