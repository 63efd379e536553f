"""Real weights: the decoder of a T5Gemma 2 made from Gemma 3 270M writes what Gemma 3 writes."""

import numpy as np
import pytest
from gemma3_real import (
    NEW_TOKENS,
    PROMPTS,
    gemma3_gguf_path,
    prompt_ids,
    reference_continuations,
)
from keras import ops

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


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_float16_writes_what_float32_writes(dtype):
    """Or parts from it where float32's two best logits are as near as float16 rounds them."""
    prompts = prompt_ids()
    longest = max(map(len, prompts))
    ids = np.array([row + [0] * (longest - len(row)) for row in prompts])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
    exact, halves = (
        T5Gemma2Seq2SeqLM.from_gemma3(gemma3_gguf_path(), dtype=name) for name in ("float32", dtype)
    )
    written = []
    for lm in (exact, halves):
        lm.compile(sampler="greedy")
        lm.preprocessor = None
        outputs = lm.generate(arrays(ids, mask), max_new_tokens=NEW_TOKENS, stop_token_ids=None)
        written.append(outputs["decoder_token_ids"])
    for prompt, wanted, found in zip(prompts, *written, strict=True):
        wanted, found = (row[: len(prompt) + NEW_TOKENS] for row in (wanted, found))
        differ = np.flatnonzero(wanted != found)
        if len(differ):
            seen = wanted[None, : differ[0]]
            logits = ops.convert_to_numpy(exact(arrays(seen, np.ones_like(seen))))[0, -1]
            second, first = np.sort(logits)[-2:]
            assert first - second < 2**-9 * abs(first)  # of 11 bits


def arrays(ids, mask):
    """Prompts of the decoder, and an encoder that nobody sees."""
    nothing = np.zeros((len(ids), 1), int)
    return {
        "encoder_token_ids": nothing,
        "encoder_padding_mask": nothing,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }
