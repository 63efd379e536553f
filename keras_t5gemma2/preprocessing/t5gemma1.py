"""Tokenizer and preprocessor of T5Gemma 1, whose vocabulary is that of Gemma 2."""

from typing import Any

import keras

from keras_t5gemma2.model.t5gemma1 import T5GemmaBackbone
from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaTokenizer(T5Gemma2Tokenizer):
    """Token ids of texts, and texts of token ids, for T5Gemma 1; as `T5Gemma2Tokenizer`.

    The published vocabulary has 256,000 tokens, `<start_of_turn>` and `<end_of_turn>` (106 and 107)
    among them and none for images.

    Args:
        proto: as `T5Gemma2Tokenizer` has it.

    Example:

    >>> file = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").to_tokenizer_json()
    >>> keras_t5gemma2.T5GemmaTokenizer(file)("seven")
    [715]
    """

    generation = 1
    backbone_cls = T5GemmaBackbone
    base_of_saved = T5Gemma2Tokenizer


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaSeq2SeqLMPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    """The arrays of `T5GemmaSeq2SeqLM`, from text; as `T5Gemma2Seq2SeqLMPreprocessor`.

    Args:
        tokenizer: `T5GemmaTokenizer`.
        image_converter: `None`: the model takes text alone.
        encoder_sequence_length: int, tokens. By default what the published models are made for.
        decoder_sequence_length: int, tokens; so too.
        tokens_per_image: int, without an effect.
        truncate: bool. As `T5Gemma2Seq2SeqLMPreprocessor` has it.
        chat_template: string. The Jinja template that turns messages into text; `None` for that
            of Gemma 2, which takes no message of the system.

    Example:

    >>> file = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").to_tokenizer_json()
    >>> tokenizer = keras_t5gemma2.T5GemmaTokenizer(file)
    >>> preprocessor = keras_t5gemma2.T5GemmaSeq2SeqLMPreprocessor(tokenizer)
    >>> preprocessor.encoder_sequence_length
    8192
    >>> preprocessor.generate_preprocess("7", encoder_sequence_length=3)["encoder_token_ids"]
    array([   2, 1898,    0], dtype=int32)
    """

    generation = 1
    backbone_cls = T5GemmaBackbone
    tokenizer_cls = T5GemmaTokenizer
    base_of_saved = T5Gemma2Seq2SeqLMPreprocessor

    def __init__(
        self,
        tokenizer: T5Gemma2Tokenizer,
        image_converter: T5Gemma2ImageConverter | None = None,
        encoder_sequence_length: int = 8192,
        decoder_sequence_length: int = 8192,
        tokens_per_image: int = 256,
        truncate: bool = True,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer,
            image_converter,
            encoder_sequence_length,
            decoder_sequence_length,
            tokens_per_image,
            truncate,
            chat_template,
            **kwargs,
        )
