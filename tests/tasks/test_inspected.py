"""A task is looked into in every form that it may have."""

import numpy as np
import pytest
from tasks import small_task

ROW = {"encoder_text": "what is in the garden", "decoder_text": "a red bee and a house"}


@pytest.mark.once
def test_adapters_and_quantized_layers_are_looked_into():
    lm = small_task()
    before = lm.attention(ROW)
    lm.enable_lora(2)
    for weight in lm.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    adapted = lm.attention(ROW)
    assert abs(adapted.past - before.past).max() > 1e-3
    assert lm.probe(ROW).surprise.sum() == pytest.approx(-lm.score(ROW), rel=1e-5)
    lm = small_task()
    lm.quantize("int8")
    quantized = lm.attention(ROW)
    assert 0 < abs(quantized.past - before.past).max() < 0.2
    np.testing.assert_allclose(quantized.past.sum(-1) + quantized.encoder.sum(-1), 1, rtol=1e-5)


@pytest.mark.once
def test_a_cache_of_integers_or_a_shared_one_changes_little():
    """The weights are those of the keys themselves, whatever `generate` stores."""
    lm = small_task()
    want, probe = lm.attention(ROW), lm.probe(ROW)
    lm.cross_attention_cache, lm.cache_dtype = "shared", "int8"
    np.testing.assert_array_equal(lm.attention(ROW).encoder, want.encoder)
    np.testing.assert_allclose(lm.probe(ROW).surprise, probe.surprise, rtol=0.1, atol=0.1)


@pytest.mark.once
def test_half_precision():
    lm = small_task(dtype="bfloat16")
    found = lm.attention(ROW)
    np.testing.assert_allclose(found.past.sum(-1) + found.encoder.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.past, small_task().attention(ROW).past, atol=3e-2)
