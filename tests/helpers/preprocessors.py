"""Tiny preprocessors and images."""

import keras
import numpy as np
import PIL.Image
from tiny_vocabulary import tiny_tokenizer_data

from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer

SIZE = (5, 7)
TOKENS_PER_IMAGE = 3
PAD, EOS, BOS, IMAGE = 0, 1, 2, 7
MARKER = "<start_of_image>"
TOKENIZER = T5Gemma2Tokenizer(tiny_tokenizer_data())

ROWS = {
    "encoder_text": ["What is in this?", "the cat"],
    "decoder_text": ["a dog", "a red bee and a house"],
}


def tiny_preprocessor(tokenizer=TOKENIZER, pan_and_scan=False, **changes):
    converter = T5Gemma2ImageConverter(SIZE, pan_and_scan=pan_and_scan)
    options = dict(
        image_converter=converter,
        encoder_sequence_length=131,
        decoder_sequence_length=11,
        tokens_per_image=TOKENS_PER_IMAGE,
    )
    return T5Gemma2Seq2SeqLMPreprocessor(tokenizer, **{**options, **changes})


def text_only_preprocessor():
    return tiny_preprocessor(image_converter=None)


def random_image(height=9, width=8, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype="uint8")
    return PIL.Image.fromarray(noise)


def plain(x):
    """`x` with lists for its arrays."""
    return keras.tree.map_structure(lambda array: array.tolist(), x)


def assert_equal(found, expected):
    """Same structure, same values."""
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
