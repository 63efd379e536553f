"""Products of few rows with the integers of a table, for decoding steps."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels


@pytest.mark.parametrize("rows", [(1,), (1, 1), (3, 1), (8,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_those_of_the_codes_as_floats(rng, dtype, rows):
    x = ops.cast(rng.standard_normal((*rows, 64)), dtype)
    codes = rng.integers(-128, 128, (48, 64)).astype("int8")
    assert kernels.reads_codes(x, is_table=True)
    found = kernels.times_codes(x, ops.convert_to_tensor(codes))
    want = ops.convert_to_numpy(ops.cast(x, "float32")) @ codes.T.astype("float32") / 1000
    found = ops.convert_to_numpy(ops.cast(found, "float32")) / 1000
    assert found.shape == (*rows, 48)
    np.testing.assert_allclose(found, want, **TOLERANCE[dtype])


def test_a_row_that_is_not_finite_spoils_no_other(rng):
    x = rng.standard_normal((3, 64)).astype("float32")
    codes = ops.convert_to_tensor(rng.integers(-128, 128, (48, 64)).astype("int8"))
    want = ops.convert_to_numpy(kernels.times_codes(ops.convert_to_tensor(x), codes))
    x[0] = np.nan
    found = ops.convert_to_numpy(kernels.times_codes(ops.convert_to_tensor(x), codes))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], want[1:], rtol=1e-6)


@pytest.mark.once
def test_what_is_trained_or_many_goes_another_way():
    assert not kernels.reads_codes(ops.ones((33, 64)), is_table=True)
    if keras.config.backend() != "torch":
        # In memory a kernel lies the other way: each step would turn it round.
        assert not kernels.reads_codes(ops.ones((1, 64)), is_table=False)
        return
    x = ops.ones((1, 64))
    x.requires_grad_(True)
    assert not kernels.reads_codes(x, is_table=True)
