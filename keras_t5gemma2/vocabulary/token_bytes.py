"""The bytes of text that each token of a vocabulary stands for."""

import re
from typing import NamedTuple

import numpy as np

_BYTE = re.compile("<0x([0-9A-F]{2})>")


class TokenBytes(NamedTuple):
    """Tokens as bytes; a token without text, such as `<eos>`, has length 0."""

    data: np.ndarray  # (V, longest) uint8, 0 behind the end of a token
    lengths: np.ndarray  # (V,) int32
    is_control: np.ndarray  # (V,) bool: tokens that no constraint allows


def token_bytes(vocabulary, without_text, control):
    """`TokenBytes` of a vocabulary.

    Args:
        vocabulary: `Vocabulary`.
        without_text: collection of ids that are left out of a text.
        control: collection of ids of further tokens that are no text of a user's.

    Example:

    >>> vocabulary = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    >>> found = token_bytes(vocabulary.loaded_vocabulary(), {0, 1, 2}, {0, 1, 2, 3})
    >>> bytes(found.data[715][: found.lengths[715]]), int(found.lengths[1])
    (b'seven', 0)
    """
    texts = [
        b"" if id in without_text else _bytes_of(token, text)
        for id, (token, text) in enumerate(
            zip(vocabulary.tokens, vocabulary.decode_each(), strict=True)
        )
    ]
    lengths = np.array([len(text) for text in texts], "int32")
    longest = int(lengths.max())
    joined = b"".join(text.ljust(longest, b"\0") for text in texts)
    data = np.frombuffer(joined, "uint8").reshape(len(texts), longest)
    is_control = np.isin(np.arange(len(texts)), list({*without_text, *control}))
    return TokenBytes(data, lengths, is_control | (lengths == 0))


def _bytes_of(token, text):
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else text.encode("utf-8")
