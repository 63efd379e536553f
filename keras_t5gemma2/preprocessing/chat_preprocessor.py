"""A preprocessor for which every text is a turn of a dialogue."""

from collections.abc import Mapping
from typing import Any, Self

import keras

from keras_t5gemma2.preprocessing.chat_template import end_of_turn
from keras_t5gemma2.preprocessing.dialogues import Dialogue, dialogue_of, parts_of_text
from keras_t5gemma2.preprocessing.encoding import EncodedRows
from keras_t5gemma2.preprocessing.from_preset import from_preset_of
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.rows import parse_rows
from keras_t5gemma2.typing import Inputs, PathLike, Tensor


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2ChatPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    """The arrays of a dialogue: the encoder reads all turns so far, the decoder writes the next.

    `T5Gemma2Seq2SeqLMPreprocessor` does the same with messages. Here, texts without roles are
    turns too: `encoder_text` is one message of the user, in which each `<start_of_image>` stands
    for an image of the row if there are any, and `decoder_text` in training is the answer. And the
    text that comes out ends where the model's turn does. As the `preprocessor` of a task it makes
    `generate`, `fit` and `evaluate_generation` those of a model that chats.

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

    def encode_rows(
        self,
        x: Inputs,
        training: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
    ) -> tuple[EncodedRows, bool]:
        lengths = encoder_sequence_length, decoder_sequence_length
        rows, is_single = parse_rows(x, answers=training)
        encoded, _ = super().encode_rows(self._dialogues(rows, training), training, *lengths)
        return encoded, is_single

    def check_rows(self, x: Inputs, training: bool = True) -> None:
        rows, _ = parse_rows(x, answers=training)
        super().check_rows(self._dialogues(rows, training), training)

    def generate_postprocess(self, x: Mapping[str, Tensor]) -> Any:
        """The text of generated ids up to the end of the model's turn, without special tokens.

        Args:
            x: as of `T5Gemma2Seq2SeqLMPreprocessor.generate_postprocess`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2ChatPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> ids = np.array([2, *preprocessor.tokenizer("zeven<end_of_turn>"), 1, 0])
        >>> arrays = {"decoder_token_ids": ids, "decoder_padding_mask": ids != 0}
        >>> preprocessor.generate_postprocess(arrays)
        'zeven'
        """
        texts = super().generate_postprocess(x)
        end = end_of_turn(self.template_in_use(), self.tokenizer)
        if not end:
            return texts
        is_single = isinstance(texts, str)
        texts = [text.partition(end)[0] for text in ([texts] if is_single else texts)]
        return texts[0] if is_single else texts

    def _dialogues(self, rows, training):
        """The rows, each of whose texts is a turn now."""
        return [self._dialogue(row, training) for row in rows]

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
