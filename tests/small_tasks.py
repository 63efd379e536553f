"""The smallest task with both stacks, for tests that compile it again and again."""

import dataclasses

import keras
from tasks import TOKENIZER
from tiny_models import DECODER, ENCODER, FULL, LOCAL, TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, T5Gemma2Seq2SeqLMPreprocessor

CONFIG = dataclasses.replace(
    TEXT_CONFIG,
    vocabulary_size=TOKENIZER.vocabulary_size(),
    encoder=dataclasses.replace(ENCODER, layers=(FULL,)),
    decoder=dataclasses.replace(DECODER, layers=(LOCAL,)),
)
ROWS = {
    "encoder_text": ["the cat", "what is in the garden"],
    "decoder_text": ["a dog", "a red bee and a house"],
}


def small_task(config=CONFIG, dtype=None, seed=0, learning_rate=0.5):
    """A task of one layer per stack, its weights random, compiled with SGD and greedy."""
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        TOKENIZER, encoder_sequence_length=11, decoder_sequence_length=9
    )
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype, seed), preprocessor)
    lm.compile(optimizer=keras.optimizers.SGD(learning_rate), sampler="greedy")
    return lm
