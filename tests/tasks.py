"""A small task for text and images, with random weights."""

import dataclasses

from tiny import tiny_tokenizer_data
from tiny_models import CONFIG, TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import (
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

TOKENIZER = T5Gemma2Tokenizer(tiny_tokenizer_data())


def tiny_task(vision=True, sampler="greedy", dtype=None, config=None):
    config = dataclasses.replace(
        config or (CONFIG if vision else TEXT_CONFIG),
        vocabulary_size=TOKENIZER.vocabulary_size(),
        end_of_image_token_id=TOKENIZER.end_of_image_token_id,
        image_token_id=TOKENIZER.image_token_id,
    )
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        TOKENIZER,
        T5Gemma2ImageConverter((28, 28)) if config.vision else None,
        encoder_sequence_length=40,
        decoder_sequence_length=13,
        tokens_per_image=4,
    )
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype=dtype), preprocessor)
    lm.compile(sampler=sampler, optimizer="sgd")
    return lm
