"""Weights that are floats of 8 bits: in a model, in files, and read from files of floats."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

TEXTS = [f"Spell {n} in {to}." for n in (7, 12, 42) for to in ("German", "Dutch")]
ROWS = {"encoder_text": TEXTS, "decoder_text": ["sieben"] * len(TEXTS)}


def logits(lm):
    x, *_ = lm.preprocess_samples(ROWS)
    return np.array(ops.convert_to_numpy(lm.predict_on_batch(x)))


@pytest.mark.once
def test_a_model_of_them_is_near_the_one_of_floats_and_is_saved_and_loaded(tmp_path):
    lm, loaded = (
        T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", **options)
        for options in ({}, {"quantize": "fp8"})
    )
    floats = logits(lm)
    lm.prepare_qat("fp8")
    prepared = logits(lm)
    lm.quantize()
    found = logits(lm)
    np.testing.assert_allclose(found, prepared, atol=1e-4)
    error = np.abs(found - floats).mean() / np.abs(floats).mean()
    assert 0.001 < error < 0.1
    assert set(lm.backbone.quantized_layers.values()) == {"fp8"}
    assert loaded.backbone.quantized_layers == lm.backbone.quantized_layers
    np.testing.assert_allclose(logits(loaded), found, atol=1e-4)
    lm.save_to_preset(tmp_path)
    again = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    assert again.backbone.quantized_layers == lm.backbone.quantized_layers
    np.testing.assert_array_equal(logits(again), found)


@pytest.mark.slow
@pytest.mark.once
def test_an_adapter_trains_beside_them_and_can_be_merged():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", quantize="fp8")
    lm.enable_lora(rank=4, target=["query", "value"])
    first, *_, last = lm.fit(ROWS, epochs=4, verbose=0).history["loss"]
    assert last < first
    texts = lm.generate(TEXTS, max_new_tokens=4)
    before = lm.score(ROWS)
    lm.merge_adapter()
    assert set(lm.backbone.quantized_layers.values()) == {"fp8"}
    np.testing.assert_allclose(lm.score(ROWS), before, rtol=0.2)
    assert len(texts) == len(TEXTS)
