"""Torch's flex kernel: which blocks of keys it visits, and where it is chosen."""

import types

import keras
import pytest
from keras import ops

from keras_t5gemma2.kernels import KeyValues, Window

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="a kernel of torch")


def test_flex_visits_the_blocks_that_a_window_leaves():
    from keras_t5gemma2.kernels.attention import torch_flex

    positions = ops.arange(1000, dtype="int32")[None]
    padded = ops.where(positions < 700, positions, -1)
    mask = torch_flex._block_mask(positions, padded, Window.bidirectional(256))
    counts = mask.kv_num_blocks[0, 0].tolist()
    # Blocks of 128 tokens: of 700, six hold any, and 127 to the left and 128 to the right are seen.
    assert counts == [2, 3, 3, 3, 3, 2, 1, 0]
    firsts = mask.kv_indices[0, 0, :, 0].tolist()
    assert firsts[:7] == [0, 0, 1, 2, 3, 4, 5]


def test_it_is_for_long_inputs_on_a_gpu_with_triton(monkeypatch):
    import torch

    from keras_t5gemma2.kernels.attention import torch as torch_kernels
    from keras_t5gemma2.kernels.attention import torch_flex

    def suits(device, length):
        query = types.SimpleNamespace(shape=(1, 4, length, 8), device=torch.device(device))
        segments = [(KeyValues(query, query, None), Window())]
        return torch_kernels.ATTENTION["flex"][1](query, segments, device) is None

    monkeypatch.setattr(torch_flex, "has_triton", lambda: True)
    assert suits("cuda", 1000)
    assert not suits("cuda", 100) and not suits("cpu", 1000)
    monkeypatch.setattr(torch_flex, "has_triton", lambda: False)
    assert not suits("cuda", 1000)
