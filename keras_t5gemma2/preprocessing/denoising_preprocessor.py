"""Plain text and images as training data: gaps for the model to fill, made anew in each epoch."""

import itertools
from collections.abc import Iterable
from typing import Any, Self

import keras
import numpy as np

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.preprocessing.cuts import Cut, Cuts, one_warning, report
from keras_t5gemma2.preprocessing.denoising import (
    DENOISERS,
    Denoiser,
    check_denoisers,
    denoise,
)
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.preprocessing.encoding import EncodedRows
from keras_t5gemma2.preprocessing.from_preset import from_preset_of
from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.rows import parse_rows
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.typing import Inputs, PathLike
from keras_t5gemma2.vocabulary.sentinels import FIRST_SENTINEL, sentinels


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2DenoisingPreprocessor(T5Gemma2Seq2SeqLMPreprocessor):
    """The training data of T5Gemma 2's own objective, from plain text.

    In training each text gets gaps: the encoder reads it with a sentinel in the place of each gap,
    the decoder shall write each sentinel and what stood there. How long and how many the gaps are,
    one of five denoisers says, drawn anew whenever a text is read; half of the time it is
    prefix-LM, one gap up to the end. A text with images always is: all up to its last image is
    read, and what follows is to be written.

    As the `preprocessor` of a task it makes `fit` and `evaluate` take plain text; `generate` and
    `infill` work as ever.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        image_converter: as of `T5Gemma2Seq2SeqLMPreprocessor`.
        encoder_sequence_length: int, tokens. Of a longer text a part is drawn that fits.
        decoder_sequence_length: int, tokens; the same.
        tokens_per_image: as of `T5Gemma2Seq2SeqLMPreprocessor`.
        truncate: bool. If false, a text longer than `encoder_sequence_length` is an error.
        denoisers: list of (rate, mean span, weight), as `Denoiser` has them; by default those of
            the paper.
        first_sentinel: string. The token that marks the first gap; those of the others count
            down from its number. A text never gets more gaps than there are such tokens.
        seed: int. The same seed and the same calls, in the same order, make the same gaps.

    Call arguments:
        x: texts, as `T5Gemma2Seq2SeqLMPreprocessor` takes them, without `decoder_text`.

    Raises:
        ValueError: about a row, which the message names: it has a `decoder_text`, is empty, holds
            a sentinel, or nothing follows its last image.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> cls = keras_t5gemma2.T5Gemma2DenoisingPreprocessor
    >>> lm.preprocessor = cls.from_preset("t5gemma2_tiny", decoder_sequence_length=24)
    >>> history = lm.fit(["one text", "another text"], verbose=0)
    """

    # keras-hub looks for preprocessors by backbone, and is to find the ordinary one.
    backbone_cls = None

    def __init__(
        self,
        tokenizer: T5Gemma2Tokenizer,
        image_converter: T5Gemma2ImageConverter | None = None,
        encoder_sequence_length: int = 131_072,
        decoder_sequence_length: int = 32_768,
        tokens_per_image: int = 256,
        truncate: bool = True,
        denoisers: Iterable[Denoiser | tuple[float, float | None, float]] = DENOISERS,
        first_sentinel: str = FIRST_SENTINEL,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer,
            image_converter,
            encoder_sequence_length,
            decoder_sequence_length,
            tokens_per_image,
            truncate,
            **kwargs,
        )
        self.denoisers = tuple(Denoiser(*denoiser) for denoiser in denoisers)
        self.first_sentinel = first_sentinel
        self.seed = seed
        self._calls = itertools.count()
        check_denoisers(self.denoisers)

    @property
    def sentinels(self) -> tuple[str, ...]:
        """The tokens of the gaps, in order.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2DenoisingPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.sentinels[:2]
        ('<unused6237>', '<unused6236>')
        """
        return sentinels(self.tokenizer, self.first_sentinel)

    def encode_rows(
        self,
        x: Inputs,
        training: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
    ) -> tuple[EncodedRows, bool]:
        lengths = self._lengths(encoder_sequence_length, decoder_sequence_length)
        if not training:
            return super().encode_rows(x, False, *lengths)
        rows, is_single = parse_rows(x)
        self._check_rows(rows, lengths)
        # Where there are no images, the ids are put in afterwards.
        filled = [self._prefix_row(row) if row.images else self._empty_row(row) for row in rows]
        encoded, _ = super().encode_rows(filled, True, *lengths)
        sentinel_ids = [self.tokenizer.token_to_id(token) for token in self.sentinels]
        _check_room_for_sentinels(rows, encoded.encoder_ids, sentinel_ids[0], lengths[0])
        call = next(self._calls)
        cuts: list[Cut] = []
        for i, ids in self._token_ids(rows):
            seed = self.seed, call, i
            number = rows[i].number
            pair = self._denoised(ids, sentinel_ids, lengths, seed, number, cuts)
            encoded.encoder_ids[i], encoded.decoder_ids[i] = pair
        report(cuts)
        return encoded, is_single

    def check_rows(self, x: Inputs, training: bool = True) -> None:
        if not training:
            super().check_rows(x, training=False)
            return
        rows, _ = parse_rows(x)
        self._check_rows(rows, self._lengths())
        if with_images := [self._prefix_row(row) for row in rows if row.images]:
            super().check_rows(with_images)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "denoisers": [list(denoiser) for denoiser in self.denoisers],
            "first_sentinel": self.first_sentinel,
            "seed": self.seed,
        }

    @classmethod
    def from_preset(cls, preset: PathLike, **kwargs: Any) -> Self:
        """As of `T5Gemma2Seq2SeqLMPreprocessor`; the arguments of this class may be given too.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2DenoisingPreprocessor
        >>> cls.from_preset("t5gemma2_tiny", seed=3).seed
        3
        """
        return from_preset_of(cls, T5Gemma2Seq2SeqLMPreprocessor, preset, kwargs)

    def _check_rows(self, rows, lengths):
        for row in rows:
            if isinstance(row.encoder_text, Dialogue):
                raise ValueError(
                    "Gaps are cut into plain text, not into dialogues. Received messages in row "
                    f"{row.number}. Give them to a `T5Gemma2ChatPreprocessor`"
                )
            if row.decoder_text is not None:
                raise ValueError(
                    "`decoder_text` must be left out: what the decoder shall write is cut out of "
                    f"`encoder_text`. Received one in row {row.number}"
                )
            if not (row.encoder_text or "").strip():
                raise ValueError(
                    "`encoder_text` must not be empty: gaps are cut into it. "
                    f"Received in row {row.number}: {shown(row.encoder_text)}"
                )
        texts = [row for row in rows if not row.images]
        with one_warning(Cuts(is_silent=True)):  # nothing is cut yet: a part may be drawn
            self._encoder().check(texts, False, *lengths)

    def _prefix_row(self, row):
        """What follows the last image becomes the target, marked as every gap is."""
        marker = self.tokenizer.start_of_image_token
        before, found, after = row.encoder_text.rpartition(marker or "\0")
        if not (found and after.strip()):
            raise ValueError(
                f"In a text with images there must be a {marker!r} for each image, and text after "
                f"the last one, which is to be written. Received in row {row.number}: "
                f"{shown(row.encoder_text[-80:])}"
            )
        first = self.first_sentinel
        return row._replace(encoder_text=before + found + first, decoder_text=first + after)

    def _empty_row(self, row):
        return row._replace(encoder_text="", decoder_text=self.tokenizer.end_token)

    def _token_ids(self, rows):
        """(index, ids) of the rows without images."""
        indices = [i for i, row in enumerate(rows) if not row.images]
        return zip(
            indices, self.tokenizer.tokenize([rows[i].encoder_text for i in indices]), strict=True
        )

    def _denoised(self, ids, sentinel_ids, lengths, seed, number, cuts):
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        # Beside the gaps: the start token, and in labels the end token.
        limits = [length - 1 for length in lengths]
        try:
            found = denoise(ids, sentinel_ids, seed, self.denoisers, *limits)
        except ValueError as error:
            raise ValueError(f"In row {number}: {cause(error, 1000)}") from error
        count = _tokens_of(found)
        # A vocabulary of few sentinels has a part drawn as well, whatever the lengths are.
        free = (ids, sentinel_ids, seed, self.denoisers)
        if count < len(ids) and count < _tokens_of(denoise(*free)):
            cuts.append(Cut("part", number, len(ids), tuple(lengths)))
        return (
            np.array([start, *found.inputs], "int32"),
            np.array([start, *found.targets, end], "int32"),
        )


def _tokens_of(denoised):
    """Of the text: every token is in inputs or targets, and a sentinel of each gap in both."""
    return len(denoised.inputs) + len(denoised.targets) - 2 * len(denoised.spans)


def _check_room_for_sentinels(rows, encoder_ids, sentinel_id, limit):
    for row, ids in zip(rows, encoder_ids, strict=True):
        if row.images and ids[-1] != sentinel_id:
            raise ValueError(
                "A text must not be cut before the end of its last image, where the gap is. "
                f"Received in row {row.number}: more than encoder_sequence_length={limit} "
                "tokens. Give a larger length, fewer images or less text before them"
            )
