"""From rows of text and images to rows of ids and pixels: the one encoding of the package."""

import contextlib
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.messages import cause, gathered, once, shown, warn
from keras_t5gemma2.preprocessing.cuts import Cut, report
from keras_t5gemma2.preprocessing.image_features import ImageFeatures
from keras_t5gemma2.preprocessing.image_prompts import place_images, widen_images
from keras_t5gemma2.preprocessing.read_image import check_image
from keras_t5gemma2.vocabulary.marked_text import ids_of_marked

_ROWS_AT_ONCE = 1024  # whose ids are held while lengths are checked


class EncodedRows(NamedTuple):
    """Rows as the model reads them, without padding."""

    encoder_ids: list[np.ndarray]  # per row, (length,) int32; empty where it has no encoder input
    decoder_ids: list[np.ndarray]  # per row, (length,) int32
    images: list[np.ndarray] | None  # per row, (images, height, width, 3) float32
    # Instead of images: per row, (images, tokens_per_image, width) float32.
    image_features: list[np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """What decides how a row is encoded, whatever the row is for.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        image_converter: `T5Gemma2ImageConverter` or `None`.
        tokens_per_image: int.
        truncate: bool. Whether text that is too long is cut, and reported; else it is an error.
    """

    tokenizer: Any
    image_converter: Any
    tokens_per_image: int
    truncate: bool = True

    def encode(self, rows, training, encoder_limit, decoder_limit):
        """`EncodedRows` of a list of `Row`.

        Args:
            rows: list of `Row`.
            training: bool. Whether the decoder's text is a target, which ends with `<eos>`.
            encoder_limit: int. Tokens of the longest row of the encoder.
            decoder_limit: int. Tokens of the longest row of the decoder.
        """
        prompts = [self._prompt(row, row.number) for row in rows]
        if training:
            self._check_targets(rows)
        with once():
            parts = self._read_images(rows)
        crop_counts = [[len(part) - 1 for part in of_row] for of_row in parts]
        cuts = []
        encoder_ids = self._encoder_ids(rows, prompts, crop_counts, encoder_limit, cuts)
        decoder_ids = self._decoder_ids(rows, training, decoder_limit, cuts)
        report(cuts)
        if self.image_converter is None:
            return EncodedRows(encoder_ids, decoder_ids, None)
        images, features = self._join_images(rows, parts)
        return EncodedRows(encoder_ids, decoder_ids, images, features)

    def check(self, rows, training, encoder_limit, decoder_limit):
        """Raises and reports what `encode` would, as far as it shows without reading a file.

        Args:
            rows: list of `Row`.
            training: as of `encode`.
            encoder_limit: as of `encode`.
            decoder_limit: as of `encode`.
        """
        prompts = [self._prompt(row, row.number) for row in rows]
        if training:
            self._check_targets(rows)
        for row in rows:
            for number, image in enumerate(row.images):
                with naming_image(row, number):
                    if not isinstance(image, ImageFeatures):
                        check_image(image)
        crops_are_known = self.image_converter is None or not self.image_converter.pan_and_scan
        pairs = zip(rows, prompts, strict=True)
        cuts = []
        # The ids are counted only where images or too many bytes make it necessary.
        long = [
            (row, prompt)
            for row, prompt in pairs
            if (row.images and crops_are_known)
            or (not row.images and self._may_exceed(prompt, encoder_limit))
        ]
        for start in range(0, len(long), _ROWS_AT_ONCE):
            some, texts = zip(*long[start : start + _ROWS_AT_ONCE], strict=True)
            counts = [[0] * len(row.images) for row in some]
            self._encoder_ids(some, texts, counts, encoder_limit, cuts)
        long = [row for row in rows if self._may_exceed(row.decoder_text, decoder_limit)]
        for start in range(0, len(long), _ROWS_AT_ONCE):
            some = long[start : start + _ROWS_AT_ONCE]
            self._decoder_ids(some, training, decoder_limit, cuts)
        report(cuts)

    def _may_exceed(self, text, limit):
        """Whether a text may be too long: a token is a byte at least."""
        # Its characters first: most texts are short, and need not be encoded.
        text = text or ""
        return 4 * len(text) + 2 > limit and len(text.encode()) + 2 > limit

    def _check_targets(self, rows):
        for row in rows:
            if row.decoder_text is not None and not row.decoder_text.strip():
                raise ValueError(
                    "`decoder_text` must not be empty in training. Received in row "
                    f"{row.number}: {shown(row.decoder_text)}. Leave the row out, or write "
                    f'"{self.tokenizer.end_token}" if the model shall learn to answer nothing'
                )

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

    def _read_images(self, rows):
        """Per row and image, an array of the whole image and its crops: pixels, or features."""
        return [
            [self._read_image(row, number, image) for number, image in enumerate(row.images)]
            for row in rows
        ]

    def _read_image(self, row, number, image):
        with naming_image(row, number):
            if not isinstance(image, ImageFeatures):
                return self.image_converter.original_and_crops(image)
            if image.values.shape[1] != self.tokens_per_image:
                raise ValueError(
                    "The features of an image must be one row per image token. Received: "
                    f"tokens_per_image={self.tokens_per_image}, and {image}"
                )
            return image.values.astype("float32")

    def _join_images(self, rows, parts):
        """All images of a row as one array: (pixels, `None`), or (`None`, features)."""
        places = [(row, number) for row in rows for number in range(len(row.images))]
        kinds = [isinstance(row.images[number], ImageFeatures) for row, number in places]
        if len(set(kinds)) > 1:
            (one, i), (other, j) = (places[kinds.index(kind)] for kind in (True, False))
            raise ValueError(
                "The images of a batch must all be images or all be `ImageFeatures`. Received: "
                f"features for image {i} of row {one.number}, and none for image {j} of row "
                f"{other.number}. Give all rows to `precompute`"
            )
        if not any(kinds):
            none = np.empty((0, *self.image_converter.image_size, 3), "float32")
            return [np.concatenate([none, *of_row]) for of_row in parts], None
        flat = [part for of_row in parts for part in of_row]
        first = flat[0]
        for (row, number), part in zip(places, flat, strict=True):
            if part.shape[1:] != first.shape[1:]:
                raise ValueError(
                    "The features of a batch must be those of one vision tower. Received: "
                    f"hidden_dim={first.shape[2]} first, and {part.shape[2]} for image {number} of "
                    f"row {row.number}"
                )
        none = np.empty((0, *first.shape[1:]), "float32")
        return None, [np.concatenate([none, *of_row]) for of_row in parts]

    def _encoder_ids(self, of_rows, prompts, crop_counts, limit, cuts):
        texts = [
            place_images(prompt, counts, self.tokenizer) if counts else prompt or ""
            for prompt, counts in zip(prompts, crop_counts, strict=True)
        ]
        encoded = []
        rows = zip(of_rows, self._ids(of_rows, texts), prompts, crop_counts, strict=True)
        for row, ids, prompt, counts in rows:
            # A chat template writes it where it is meant to be.
            start = [] if prompt is None or row.mark else [self.tokenizer.start_token_id]
            ids = np.array([*start, *ids], "int32")
            if counts:
                ids = widen_images(ids, self.tokenizer.image_token_id, self.tokens_per_image)
                self._check_room(ids, limit, row.number)
            cuts += self._cuts("encoder", len(ids), limit, row.number)
            encoded.append(ids[:limit])
        return encoded

    def _ids(self, rows, texts):
        """Token ids of a text of each row."""
        if not any(row.mark for row in rows):
            return self.tokenizer.tokenize(texts)
        vocabulary = self.tokenizer.loaded_vocabulary()
        pairs = zip(rows, texts, strict=True)
        return [ids_of_marked(vocabulary, text, row.mark) for row, text in pairs]

    def _check_room(self, ids, limit, index):
        # The token after the last image token ends its block.
        needed = np.flatnonzero(ids == self.tokenizer.image_token_id)[-1] + 2
        if needed > limit:
            raise ValueError(
                "The tokens of an image must not be cut. Received: encoder_sequence_length="
                f"{limit}, and in row {index} images that end at token {needed}. Give a larger "
                "length, fewer images or less text before them"
            )

    def _decoder_ids(self, rows, training, limit, cuts):
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        encoded = []
        texts = [row.decoder_text or "" for row in rows]
        for row, ids in zip(rows, self._ids(rows, texts), strict=True):
            ids = [start, *ids]
            if training:
                while ids[-1] == end:
                    ids.pop()
                ids.append(end)
            # A target's ids are inputs and labels: one more than the length of either.
            cuts += self._cuts("decoder", len(ids) - training, limit - training, row.number)
            encoded.append(np.array(ids[:limit], "int32"))
        return encoded

    def _cuts(self, stream, length, limit, index):
        if length <= limit:
            return []
        if not self.truncate:
            raise ValueError(
                f"`{stream}_text` must fit into the model's sequence, since truncate=False. "
                f"Received in row {index}: {length} tokens, {stream}_sequence_length={limit}. "
                "Shorten the text, give a larger length, or set truncate=True"
            )
        return [Cut(stream, index, length, limit)]


@contextlib.contextmanager
def naming_image(row, number):
    """Says of an error and of warnings of which row and image they are."""
    where = f"In row {row.number}, image {number}"
    with gathered() as notes:
        try:
            yield
        except (ValueError, TypeError) as error:
            raise type(error)(f"{where}: {cause(error, 1500)}") from error
    for note in notes:
        warn(f"{where}: {note}")
