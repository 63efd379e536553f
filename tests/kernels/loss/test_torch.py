"""What torch makes of gradients of the loss, chunk by chunk."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.kernels.loss import reference

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="the loss of torch")


@pytest.fixture
def sums_over_chunks():
    from keras_t5gemma2.kernels.loss import torch as loss

    return loss.sums_over_chunks


@pytest.fixture
def problem(rng):
    """Hidden states (9, 4), a table (13, 4), labels and weights."""
    hidden, table = (
        ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for shape in ((9, 4), (13, 4))
    )
    labels = ops.convert_to_tensor(rng.integers(0, 13, size=9), dtype="int32")
    return hidden, table, labels, ops.convert_to_tensor(rng.uniform(0, 2, 9).astype("float32"))


@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_chunks_need_not_be_whole(sums_over_chunks, problem, size):
    got = sums_over_chunks(*problem, (), 2.0, size, None)
    want = reference.linear_cross_entropy(*problem, 2.0)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE["float32"])


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)], ids=str)
def test_only_the_gradients_that_are_wanted_are_made(sums_over_chunks, problem, wanted):
    hidden, table, *others = problem
    for tensor, is_wanted in zip((hidden, table), wanted, strict=True):
        tensor.requires_grad_(is_wanted)
    loss, _ = sums_over_chunks(hidden, table, *others, (), None, 4, None)
    assert loss.requires_grad == any(wanted)
    if any(wanted):
        assert [x is not None for x in loss.grad_fn.saved_tensors] == list(wanted)
        loss.backward()
    assert [x.grad is not None for x in (hidden, table)] == list(wanted)


def test_nothing_is_kept_where_no_gradient_is_recorded(sums_over_chunks, problem):
    import torch

    hidden, table, *others = problem
    hidden.requires_grad_(True)
    with torch.no_grad():
        loss, _ = sums_over_chunks(hidden, table, *others, (), None, 4, None)
    assert not loss.requires_grad


def test_gradients_have_the_dtypes_of_what_they_are_of(sums_over_chunks, problem):
    hidden, table, *others = problem
    hidden = hidden.bfloat16().requires_grad_(True)
    table.requires_grad_(True)
    loss, _ = sums_over_chunks(hidden, table, *others, (), None, 4, None)
    (2 * loss).backward()
    assert (hidden.grad.dtype, table.grad.dtype) == (hidden.dtype, table.dtype)
    # The slopes of a token's logits add up to zero: so do those of a column of the table.
    np.testing.assert_allclose(table.grad.sum(dim=0), np.zeros(4), atol=1e-5)
    assert float(ops.max(ops.abs(table.grad))) > 0.1
