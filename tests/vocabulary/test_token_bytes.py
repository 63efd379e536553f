"""Tokens as bytes."""

import numpy as np
import pytest
from tasks import TOKENIZER

from keras_t5gemma2.vocabulary.token_bytes import token_bytes

pytestmark = pytest.mark.once


def test_bytes_of_a_text_are_those_of_its_tokens():
    vocabulary = TOKENIZER.loaded_vocabulary()
    found = token_bytes(vocabulary, set(TOKENIZER.special_token_ids), {3})
    for text in ("the cat is in the garden", "é ☃ \n\n x"):
        ids = TOKENIZER(text)
        spelled = b"".join(bytes(found.data[id][: found.lengths[id]]) for id in ids)
        assert spelled == text.encode()


def test_what_stands_for_no_text_is_control():
    vocabulary = TOKENIZER.loaded_vocabulary()
    found = token_bytes(vocabulary, set(TOKENIZER.special_token_ids), {9})
    special = list(TOKENIZER.special_token_ids)
    assert not found.lengths[special].any() and found.is_control[special].all()
    assert found.is_control[9] and found.lengths[9] > 0
    assert np.flatnonzero(found.is_control).tolist() == sorted({*special, 9})
