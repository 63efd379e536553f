"""TensorFlow's own operations: numbers that stay narrow."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import kernels

pytestmark = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="its file")


def test_few_rows_in_bfloat16_are_summed_in_float32(rng):
    """Many rows are rounded, as TensorFlow's own product has it."""
    table = ops.cast(rng.standard_normal((40, 64)), "bfloat16")
    x = ops.cast(rng.standard_normal((9, 64)), "bfloat16")
    want = ops.convert_to_numpy(ops.cast(x, "float32")) @ ops.convert_to_numpy(
        ops.transpose(ops.cast(table, "float32"))
    )
    few = ops.convert_to_numpy(kernels.logits(x[:8], table))
    np.testing.assert_allclose(few, want[:8], rtol=1e-5, atol=1e-5)
    many = ops.convert_to_numpy(kernels.logits(x, table))
    assert 1e-3 < np.abs(many - want).max() < 2**-6 * np.abs(want).max()
