"""Real weights: the decoder of a T5Gemma 2 made from Gemma 3 270M writes what Gemma 3 writes."""

import pytest
from gemma3_real import NEW_TOKENS, PROMPTS, gemma3_gguf_path, reference_continuations

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_greedy_continuations_in_ten_languages_are_gemma_3_s():
    """Ten prompts of different lengths in one batch, with an empty encoder, 64 tokens each."""
    lm = T5Gemma2Seq2SeqLM.from_gemma3(gemma3_gguf_path(), dtype="float32")
    lm.compile(sampler="greedy")
    texts = lm.generate(
        {"decoder_text": list(PROMPTS)},
        max_new_tokens=NEW_TOKENS,
        stop_token_ids=None,
        strip_prompt=True,
    )
    tokenizer = lm.preprocessor.tokenizer
    for prompt, ours, theirs in zip(PROMPTS, texts, reference_continuations(), strict=True):
        assert len(theirs) == NEW_TOKENS
        kept = [token for token in theirs if token not in tokenizer.special_token_ids]
        assert ours == tokenizer.detokenize(kept), prompt
