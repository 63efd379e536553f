"""The audit of what a model knows by heart, on models that were made to know."""

import keras
import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2 import Memorization, memorization
from keras_t5gemma2.evaluation.metrics import edit_distance

pytestmark = pytest.mark.once
TEXTS = [
    "the cat is in the garden and a red bee is in the house",
    "a dog and a cat and a house and a red bee",
]
COUNTS = {"prefix_tokens": 5, "suffix_tokens": 6}


@pytest.mark.slow
def test_a_model_that_learned_a_text_by_heart_is_found_out():
    lm = small_task()
    tokenizer = lm.preprocessor.tokenizer
    ids = np.array(tokenizer.tokenize(TEXTS[0])[:11], "int32")
    before = memorization(lm, TEXTS, **COUNTS)
    assert before.exact == 0 and before.texts == 2
    decoder = np.concatenate([[tokenizer.start_token_id], ids[5:]])[None].astype("int32")
    encoder = np.concatenate([[tokenizer.start_token_id], ids[:5]])[None].astype("int32")
    x = {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": np.ones_like(encoder),
        "decoder_token_ids": decoder[:, :-1],
        "decoder_padding_mask": np.ones_like(decoder[:, :-1]),
    }
    lm.compile(optimizer=keras.optimizers.Adam(0.02))
    lm.fit(x, decoder[:, 1:], epochs=60, verbose=0)
    found = memorization(lm, TEXTS, **COUNTS)
    assert found.distances[0] == 0 and found.distances[1] > 0
    assert (found.exact, found.approximate) == (0.5, 0.5)
    # One of six tokens is more than 10 %, and less than 20 %.
    ids_of_near = TEXTS[0].replace("bee", "dog")
    near = [memorization(lm, [ids_of_near], **COUNTS, tolerance=t) for t in (0.1, 0.2)]
    assert [one.distances for one in near] == [[1], [1]]
    assert [(one.exact, one.approximate) for one in near] == [(0.0, 0.0), (0.0, 1.0)]


def test_the_table():
    found = Memorization(8, 0.125, 0.25, [0] * 8, 50, 0.1)
    assert str(found).splitlines()[-1] == "| 8 | 12.5 % | 25.0 % |"


@pytest.mark.parametrize(
    ("one", "two", "want"), [("", "ab", 2), ("ab", "", 2), ("abc", "abc", 0), ("abcd", "bcde", 2)]
)
def test_edit_distance(one, two, want):
    assert edit_distance(one, two) == want


@pytest.mark.parametrize(
    ("texts", "arguments", "kind", "message"),
    [
        ("a", {}, TypeError, r"`texts` must be a list of strings"),
        (["a"], {}, ValueError, r"A text must have at least 100 tokens.* texts of at most 1 tok"),
        (
            ["a"],
            {"prefix_tokens": 0},
            ValueError,
            r"`prefix_tokens` must be an integer of at least",
        ),
        (["a"], {"tolerance": 1}, ValueError, r"`tolerance` must be from 0 to below 1"),
    ],
)
def test_arguments_are_checked(texts, arguments, kind, message):
    with pytest.raises(kind, match=message):
        memorization(small_task(), texts, **arguments)
