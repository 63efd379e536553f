"""What torch does otherwise than `ops.screened`: a copy read in bfloat16, by other bounds."""

import keras
import numpy as np
import pytest

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.ops import screened

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="its file")


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_logits_lie_between_the_bounds(rng, is_half, scale):
    import torch

    from keras_t5gemma2.kernels.ops import torch_screened

    table = torch.tensor(rng.standard_normal((512, 96)) * scale, dtype=torch.float32)
    table = table.bfloat16() if is_half else table
    x = torch.tensor(rng.standard_normal((4, 96)), dtype=torch.float32)
    x = x.bfloat16().float() if is_half else x
    screen = kernels.screen_of(table)
    lower, upper, is_safe = torch_screened._bounds(x, screen, is_half)
    full = kernels.logits(x, table)
    assert is_safe
    assert (lower <= full).all() and (full <= upper).all()
    assert ((upper - lower) < 0.1 * full.abs().max()).all()


def test_the_copy_is_that_of_the_reference(rng):
    import torch

    table = rng.standard_normal((700, 32)).astype("float32")
    table[3] = 0
    ours = kernels.screen_of(keras.Variable(table))
    reference = screened.screen_of(torch.tensor(table))
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6)
