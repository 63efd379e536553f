"""Torch's flash kernel for CPUs: what it is chosen for, and steps without a rule."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import KeyValues, Window, rounded
from keras_t5gemma2.kernels.attention import reference

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="a kernel of torch")


@pytest.fixture
def flash():
    from keras_t5gemma2.kernels.attention import torch_flash

    return torch_flash


def segments_of(keys, positions=None, window=None):
    return [(KeyValues(keys, keys, positions), window or Window())]


def test_it_is_for_inputs_whose_scores_are_many(flash):
    def suits(length, device="cpu"):
        query = ops.zeros((1, 1, length, 8)).to(device)
        return flash.why_not(query, segments_of(query), device) is None

    assert suits(257) and not suits(256) and not suits(1)
    assert not suits(257, "meta")


def test_steps_are_for_few_queries_of_tensors_without_gradients(flash):
    import torch

    def suits(length=1, device="cpu", scaled=False, trained=False):
        query, keys = ops.zeros((1, 1, length, 8)).to(device), ops.zeros((1, 1, 9, 8))
        keys.requires_grad_(trained)
        segments = segments_of(rounded(keys) if scaled else keys)
        return flash.why_not_few(query, segments, device) is None

    assert suits() and suits(8)
    assert not suits(9) and not suits(device="meta") and not suits(scaled=True)
    assert not suits(trained=True)
    with torch.no_grad():
        assert suits(trained=True)


@pytest.mark.parametrize("rows", [2, 6])
def test_steps_without_positions_see_all(rng, flash, rows):
    """Each row its own keys, and three rows those of one."""
    query = ops.convert_to_tensor(rng.standard_normal((rows, 4, 3, 8), "float32"))
    keys = ops.convert_to_tensor(rng.standard_normal((2, 2, 7, 8), "float32"))
    got = flash.attend_few(query, None, segments_of(keys), 0.3)
    many = keys.repeat_interleave(rows // 2, dim=0).repeat_interleave(2, dim=1)
    weights = (0.3 * query @ many.transpose(2, 3)).softmax(dim=-1)
    np.testing.assert_allclose(got, weights @ many, **TOLERANCE["float32"])


def test_tiles_leave_out_the_keys_that_no_query_of_them_sees(rng, flash, monkeypatch):
    monkeypatch.setattr(flash, "QUERIES", 64)
    length = 256
    query, keys = (
        ops.convert_to_tensor(rng.standard_normal((1, heads, length, 8), "float32"))
        for heads in (2, 1)
    )
    positions = ops.arange(length, dtype="int32")[None]
    seen, kernel = [], flash._FLASH

    def spy(query, keys, values, **options):
        seen.append(keys.shape[2])
        return kernel(query, keys, values, **options)

    monkeypatch.setattr(flash, "_FLASH", spy)
    segments = segments_of(keys, positions, Window.causal(10))
    got = flash.attend(query, positions, segments, 0.3)
    # Blocks of 64 keys: that of the queries, and but for the first the one before.
    assert seen == [64, 128, 128, 128]
    want = reference.attend(query, positions, segments, 0.3)
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])
