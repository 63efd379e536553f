"""Which token stands for which word of a text."""

import re
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.image_prompts import place_images

_WORD = re.compile(r"\S+")


class Words(NamedTuple):
    """The words of a row, and their labels.

    Args:
        spans: list of (start, end), the characters of each word in the row's text.
        labels: list of what was given of each word, or `None`.
    """

    spans: list[tuple[int, int]]
    labels: Any = None


def words_of(text, marker=None):
    """The (start, end) of each word of a text: what stands between white space and images.

    Args:
        text: string or `None`.
        marker: string that stands for an image, or `None`.

    >>> words_of("Ada wrote it.")
    [(0, 3), (4, 9), (10, 13)]
    """
    text = text or ""
    if marker is not None:
        text = text.replace(marker, " " * len(marker))
    return [match.span() for match in _WORD.finditer(text)]


def joined_words(words, number=0):
    """The text of a list of words, one space between two, and the (start, end) of each.

    Args:
        words: list of strings.
        number: int. Of the row, for errors.

    Raises:
        TypeError: a word is no string.
        ValueError: a word is empty.

    >>> joined_words(["New York", "!"])
    ('New York !', [(0, 8), (9, 10)])
    """
    spans, start = [], 0
    for word in words:
        if not isinstance(word, str):
            raise TypeError(
                f"A list of words must hold strings. Received in row {number}: {shown(word)}"
            )
        if not word.strip():
            raise ValueError(
                f"Words must not be empty. Received in row {number}: {shown(word)} among "
                f"{shown(list(words))}"
            )
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def first_tokens(spans, offsets):
    """Of each word, the number of the first token that holds a part of it, or -1.

    Args:
        spans: list of (start, end), characters of words, in order.
        offsets: list of (start, end), characters of tokens, in order.

    >>> first_tokens([(0, 3), (4, 9)], [(0, 2), (2, 3), (3, 6), (6, 9)])
    [0, 2]
    """
    found, token = [], 0
    for start, end in spans:
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        is_in = token < len(offsets) and offsets[token][0] < end
        found.append(token if is_in else -1)
    return found


def places_of_words(preprocessor, rows, words, lengths):
    """Of each word of each row, where its first token stands in the encoder's ids.

    Args:
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`.
        rows: list of `Row`.
        words: list of `Words`, one a row.
        lengths: (rows,) ints, the tokens of each row. What is cut stands nowhere, -1.

    Returns:
        A list of (words,) int arrays.

    Raises:
        ValueError: images are cut into crops, between which words move.
    """
    return [
        np.array([p if p < length else -1 for p in _places(preprocessor, row, of_row)], "int64")
        for row, of_row, length in zip(rows, words, lengths, strict=True)
    ]


def _places(preprocessor, row, words):
    tokenizer, spans = preprocessor.tokenizer, words.spans
    text = row.encoder_text or ""
    if row.images and text:
        if preprocessor.image_converter.pan_and_scan:
            raise ValueError(
                "Words cannot be found in a text with crops of images. Received in row "
                f"{row.number}: {len(row.images)} images, and an image converter with "
                "pan_and_scan=True. Set it to False"
            )
        marker = tokenizer.start_of_image_token
        longer = len(place_images(marker, [0], tokenizer)) - len(marker)
        spans = [
            tuple(at + longer * text.count(marker, 0, start) for at in (start, end))
            for start, end in spans
        ]
        text = place_images(text, [0] * len(row.images), tokenizer)
    ids, offsets = tokenizer.tokenize_with_offsets(text)
    widths = np.where(np.array(ids) == tokenizer.image_token_id, preprocessor.tokens_per_image, 1)
    before = 1 + np.concatenate([[0], np.cumsum(widths)])  # behind the start token
    return [-1 if token < 0 else int(before[token]) for token in first_tokens(spans, offsets)]
