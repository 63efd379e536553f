"""Labels of words as labels of tokens."""

import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2.preprocessing.columns import KEYS_OF_CLASSIFIERS, Columns
from keras_t5gemma2.training.word_preparation import WordPreparation

pytestmark = pytest.mark.once


def test_the_first_token_of_a_word_has_its_label_and_others_none():
    lm = tiny_task(vision=False)
    columns = Columns(None, KEYS_OF_CLASSIFIERS)
    prepare = WordPreparation(lm.preprocessor, lm.backbone.config, num_classes=9, columns=columns)
    x, y = prepare([["the cat", "xyz"], ["a"]], [[7, 8], [5]])
    assert y.shape == x["encoder_token_ids"].shape
    tokenizer = lm.preprocessor.tokenizer
    assert y[0, 1] == 7  # behind the start token
    assert (
        y[0, 1 + len(tokenizer.tokenize("the cat "))] == 8
        or y[0, 1 + len(tokenizer.tokenize("the cat"))] == 8
    )
    assert y[y >= 0].tolist() == [7, 8, 5]
    assert np.all(y[x["encoder_padding_mask"] == 0] == -100)
