"""Small tasks with random weights: one for text and images, and the smallest with both stacks."""

import dataclasses

import keras
from tiny_models import CONFIG, DECODER, ENCODER, FULL, LOCAL, TEXT_CONFIG, tiny_backbone
from tiny_vocabulary import tiny_tokenizer_data

from keras_t5gemma2 import (
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

TOKENIZER = T5Gemma2Tokenizer(tiny_tokenizer_data())
# For tests that compile the task again and again.
ONE_LAYER = dataclasses.replace(
    TEXT_CONFIG,
    vocabulary_size=TOKENIZER.vocabulary_size(),
    encoder=dataclasses.replace(ENCODER, layers=(FULL,)),
    decoder=dataclasses.replace(DECODER, layers=(LOCAL,)),
)
SMALL_ROWS = {
    "encoder_text": ["the cat", "what is in the garden"],
    "decoder_text": ["a dog", "a red bee and a house"],
}


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


def small_task(config=ONE_LAYER, dtype=None, seed=0, learning_rate=0.5):
    """A task of one layer per stack, its weights random, compiled with SGD and greedy."""
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        TOKENIZER, encoder_sequence_length=11, decoder_sequence_length=9
    )
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype, seed), preprocessor)
    lm.compile(optimizer=keras.optimizers.SGD(learning_rate), sampler="greedy")
    return lm
