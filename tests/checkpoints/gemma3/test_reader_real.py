"""Gemma 3 270M, its real weights and vocabulary, in both stacks."""

import numpy as np
import pytest
import torch
from checkpoints import load_gemma3
from gemma3_real import (
    PROMPTS,
    gemma3_gguf_path,
    gemma3_tokenizer,
    prompt_ids,
    reference_gemma3,
)
from reference_gemma3 import masked_encoder_logits

from keras_t5gemma2 import T5Gemma2Backbone

pytestmark = [pytest.mark.real, pytest.mark.once]


@pytest.fixture(scope="module")
def backbone():
    return load_gemma3(gemma3_gguf_path(), dtype="float32")


@pytest.mark.slow
def test_parameters_are_those_of_the_published_text_model(backbone):
    assert backbone.count_params() == 368_424_832


@pytest.mark.slow
def test_logits_are_the_reference_s_in_ten_languages(backbone):
    rows = prompt_ids()
    longest = max(map(len, rows))
    # One call for all: padding at the end changes nothing before it.
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], "int32")
    with torch.no_grad():
        wanted = reference_gemma3()(torch.tensor(ids)).logits.numpy()
    logits = masked_encoder_logits(backbone, ids)
    for i, row in enumerate(rows):
        ours, theirs = logits[i, : len(row)], wanted[i, : len(row)]
        # The largest logit is 217.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4, err_msg=PROMPTS[i])


@pytest.mark.slow
def test_vocabulary_has_the_image_token_of_t5gemma2():
    tokenizer = gemma3_tokenizer()
    assert tokenizer.vocabulary_size() == 262_144
    assert tokenizer.image_token_id == 256_001
    assert (tokenizer.start_of_image_token_id, tokenizer.end_of_image_token_id) == (
        255_999,
        256_000,
    )
    for prompt, ids in zip(PROMPTS, prompt_ids(), strict=True):
        assert tokenizer.detokenize(ids) == f"<bos>{prompt}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_float16_is_near_float32_though_activations_are_out_of_its_range(backbone, dtype):
    ids = np.array([row[:6] for row in prompt_ids()[:4]], "int32")
    wanted = masked_encoder_logits(backbone, ids)
    halves = T5Gemma2Backbone(backbone.config, dtype=dtype)
    for ours, theirs in zip(halves.weights, backbone.weights, strict=True):
        ours.assign(theirs)
    error = masked_encoder_logits(halves, ids) - wanted
    # 0.05 to 0.13 in bfloat16. An error of infinity or NaN is not below anything.
    assert np.sqrt(np.mean(error**2)) < 1e-2 * np.std(wanted)
