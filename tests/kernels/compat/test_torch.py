"""What `kernels.compat` uses of torch is there, and does what it says."""

import keras
import pytest


@pytest.mark.skipif(keras.config.backend() != "torch", reason="imports torch")
def test_flash_attention_of_torch():
    import torch

    from keras_t5gemma2.kernels.compat.torch import flash_attention, has_triton

    assert has_triton() in (True, False)
    forward, backward = flash_attention()
    query = torch.randn(1, 2, 3, 4)
    output, log_sums = forward(query, query, query, attn_mask=None, scale=0.5)
    scores = 0.5 * query @ query.transpose(-1, -2)
    torch.testing.assert_close(output, scores.softmax(-1) @ query)
    torch.testing.assert_close(log_sums, scores.logsumexp(-1))
    ones = torch.ones_like(query)
    slopes = backward(
        ones, query, query, query, output, log_sums, 0.0, False, attn_mask=None, scale=0.5
    )
    assert len(slopes) == 3
    inputs = [query.clone().requires_grad_() for _ in slopes]
    attended = (0.5 * inputs[0] @ inputs[1].transpose(-1, -2)).softmax(-1) @ inputs[2]
    for slope, wanted in zip(slopes, torch.autograd.grad(attended.sum(), inputs), strict=True):
        torch.testing.assert_close(slope, wanted)
