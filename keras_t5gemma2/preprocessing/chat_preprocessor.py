"""A preprocessor for which every text is a turn of a dialogue."""

from typing import Any, Self

import keras

from keras_t5gemma2.preprocessing.chat_template import turn_end
from keras_t5gemma2.preprocessing.dialogues import Dialogue, dialogue_of, parts_of_text
from keras_t5gemma2.preprocessing.from_preset import from_preset_of
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.rows import parse_rows
from keras_t5gemma2.typing import PathLike


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2ChatPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    """The arrays of a dialogue: the encoder reads all turns so far, the decoder writes the next.

    `T5Gemma2Seq2SeqLMPreprocessor` does the same with messages. Here, texts without roles are
    turns too: `encoder_text` is one message of the user, in which each `<start_of_image>` stands
    for an image of the row if there are any, and `decoder_text` in training is the answer. And what
    is generated ends where the model's turn does, whose end is left out. As the `preprocessor` of a
    task it makes `generate`, `stream`, `fit` and `evaluate_generation` those of a model that chats.

    Args:
        tokenizer: as of `T5Gemma2Seq2SeqLMPreprocessor`.
        image_converter, encoder_sequence_length, decoder_sequence_length, tokens_per_image,
            truncate, chat_template: as well.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2ChatPreprocessor
    >>> preprocessor = cls.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["7 in Dutch"], "decoder_text": ["zeven"]}
    >>> encoded, _ = preprocessor.encode_rows(rows, training=True)
    >>> preprocessor.tokenizer.detokenize(encoded.encoder_ids[0])
    '<bos><start_of_turn>user\\n7 in Dutch<end_of_turn>\\n<start_of_turn>model\\n'
    >>> preprocessor.tokenizer.detokenize(encoded.decoder_ids[0])
    '<bos>zeven<end_of_turn><eos>'
    """

    # keras-hub looks for preprocessors by backbone, and is to find the ordinary one.
    backbone_cls = None

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end what is generated: of the turn, where one token does, and of the text.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2ChatPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> [preprocessor.tokenizer.id_to_token(id) for id in preprocessor.stop_token_ids]
        ['<end_of_turn>', '<eos>']
        """
        return turn_end(self).stop_token_ids

    @property
    def end_of_text(self) -> str:
        """What the template writes behind the model's words, or "" for nothing.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2ChatPreprocessor
        >>> cls.from_preset("t5gemma2_tiny").end_of_text
        '<end_of_turn>'
        """
        return turn_end(self).text

    def _rows(self, x, training):
        rows, is_single = parse_rows(x, answers=training)
        rows, _ = super()._rows([self._dialogue(row, training) for row in rows], training)
        return rows, is_single

    def _dialogue(self, row, training):
        if isinstance(row.encoder_text, Dialogue) or row.encoder_text is None:
            return row
        marker = self.tokenizer.start_of_image_token if row.images else None
        content = parts_of_text(row.encoder_text, marker)
        one = dialogue_of([{"role": "user", "content": content}], row.number)
        answer = row.decoder_text
        if training and isinstance(answer, str):
            answer = {"role": "assistant", "content": answer}
        return row._replace(encoder_text=one._replace(images=row.images), decoder_text=answer)

    @classmethod
    def from_preset(cls, preset: PathLike, **kwargs: Any) -> Self:
        """As of `T5Gemma2Seq2SeqLMPreprocessor`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2ChatPreprocessor
        >>> cls.from_preset("t5gemma2_tiny", encoder_sequence_length=96).encoder_sequence_length
        96
        """
        return from_preset_of(cls, T5Gemma2Seq2SeqLMPreprocessor, preset, kwargs)
