"""From rows of text and images to rows of ids and pixels: the one encoding of the package."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.preprocessing.image_prompts import place_images, widen_images


class EncodedRows(NamedTuple):
    """Rows as the model reads them, without padding."""

    encoder_ids: list[np.ndarray]  # per row, (length,) int32; empty where it has no encoder input
    decoder_ids: list[np.ndarray]  # per row, (length,) int32
    images: list[np.ndarray] | None  # per row, (images, height, width, 3) float32


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """What decides how a row is encoded, whatever the row is for.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        image_converter: `T5Gemma2ImageConverter` or `None`.
        tokens_per_image: int.
    """

    tokenizer: Any
    image_converter: Any
    tokens_per_image: int

    def encode(self, rows, training, encoder_limit, decoder_limit):
        """`EncodedRows` of a list of `Row`.

        Args:
            rows: list of `Row`.
            training: bool. Whether the decoder's text is a target, which ends with `<eos>`.
            encoder_limit: int. Tokens of the longest row of the encoder.
            decoder_limit: int. Tokens of the longest row of the decoder.
        """
        prompts = [self._prompt(row, row.number) for row in rows]
        images = [self._read_images(row, row.number) for row in rows]
        numbers = [row.number for row in rows]
        encoder_ids = self._encoder_ids(prompts, images, encoder_limit, numbers)
        decoder_ids = self._decoder_ids(rows, training, decoder_limit)
        if self.image_converter is None:
            return EncodedRows(encoder_ids, decoder_ids, None)
        none = np.empty((0, *self.image_converter.image_size, 3), "float32")
        joined = [np.concatenate([none, *parts]) for parts in images]
        return EncodedRows(encoder_ids, decoder_ids, joined)

    def _prompt(self, row, index):
        """The encoder's text with a marker for each image, or `None` where there is no input."""
        count = len(row.images)
        if count and self.image_converter is None:
            raise ValueError(
                "Images need a preprocessor with an `image_converter`. Received: image_converter="
                f"None, and in row {index} {count} images"
            )
        marker = self._image_marker()
        if count and marker is None:
            raise ValueError(
                "Images need a tokenizer with `<start_of_image>`, `<end_of_image>` and "
                f"`<image_soft_token>`. Received: one without, and in row {index} {count} images"
            )
        if count and not row.encoder_text:
            return " ".join([marker] * count)
        if marker is not None and row.encoder_text is not None:
            self._check_markers(row.encoder_text, marker, count, index)
        return row.encoder_text

    def _image_marker(self):
        tokenizer = self.tokenizer
        ids = (
            tokenizer.start_of_image_token_id,
            tokenizer.image_token_id,
            tokenizer.end_of_image_token_id,
        )
        return None if None in ids else tokenizer.start_of_image_token

    def _check_markers(self, text, marker, count, index):
        if text.count(marker) != count:
            raise ValueError(
                f"`encoder_text` must hold one `{marker}` for each image. Received in row {index}: "
                f"{text.count(marker)} of them and {count} images"
            )
        image_token = self.tokenizer.image_token
        if self.image_converter is not None and image_token in text:
            raise ValueError(
                f"`encoder_text` must not hold `{image_token}`, whose places belong to the images; "
                f"write `{marker}` where an image stands. Received it in row {index}"
            )

    def _read_images(self, row, index):
        """Per image, (1 + crops, height, width, 3) pixels."""
        pixels = []
        for number, image in enumerate(row.images):
            try:
                pixels.append(self.image_converter.original_and_crops(image))
            except (ValueError, TypeError) as error:
                raise type(error)(f"In row {index}, image {number}: {error}") from error
        return pixels

    def _encoder_ids(self, prompts, images, limit, numbers):
        crop_counts = [[len(pixels) - 1 for pixels in parts] for parts in images]
        texts = [
            place_images(prompt, counts, self.tokenizer) if counts else prompt or ""
            for prompt, counts in zip(prompts, crop_counts, strict=True)
        ]
        rows = self.tokenizer.tokenize(texts)
        encoded = []
        for number, ids, prompt, counts in zip(numbers, rows, prompts, crop_counts, strict=True):
            start = [] if prompt is None else [self.tokenizer.start_token_id]
            ids = np.array([*start, *ids], "int32")
            if counts:
                ids = widen_images(ids, self.tokenizer.image_token_id, self.tokens_per_image)
                self._check_room(ids, limit, number)
            encoded.append(ids[:limit])
        return encoded

    def _check_room(self, ids, limit, index):
        # The token after the last image token ends its block.
        needed = np.flatnonzero(ids == self.tokenizer.image_token_id)[-1] + 2
        if needed > limit:
            raise ValueError(
                "The tokens of an image must not be cut. Received: encoder_sequence_length="
                f"{limit}, and in row {index} images that end at token {needed}. Give a larger "
                "length, fewer images or less text before them"
            )

    def _decoder_ids(self, rows, training, limit):
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        encoded = []
        for ids in self.tokenizer.tokenize([row.decoder_text or "" for row in rows]):
            ids = [start, *ids]
            if training:
                while ids[-1] == end:
                    ids.pop()
                ids.append(end)
            encoded.append(np.array(ids[:limit], "int32"))
        return encoded
