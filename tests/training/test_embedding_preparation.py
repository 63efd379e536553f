"""What an embedder is trained on: every form of input, and what is refused."""

import re

import numpy as np
import pytest
from tasks import TOKENIZER
from tiny_models import TEXT_CONFIG

from keras_t5gemma2 import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.columns import KEYS_OF_EMBEDDERS, Columns
from keras_t5gemma2.training.embedding_preparation import EmbeddingPreparation

pytestmark = pytest.mark.once

QUERIES, DOCUMENTS = ["the cat", "a dog"], ["a red bee", "the cat"]


def preparation(prompts=("", "")):
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, encoder_sequence_length=16)
    known = Columns(None, KEYS_OF_EMBEDDERS)
    return EmbeddingPreparation(preprocessor, TEXT_CONFIG, columns=known, prompts=prompts)


def texts_of(x):
    rows = zip(x["encoder_token_ids"], x["encoder_padding_mask"], strict=True)
    return [TOKENIZER.detokenize(ids[mask.astype(bool)][1:]) for ids, mask in rows]


@pytest.mark.parametrize(
    "given",
    [
        ({"query": QUERIES, "document": DOCUMENTS},),
        ([{"query": q, "document": d} for q, d in zip(QUERIES, DOCUMENTS, strict=True)],),
        (QUERIES, DOCUMENTS),
        (list(zip(QUERIES, DOCUMENTS, strict=True)),),
    ],
)
def test_forms_of_rows(given):
    x, y = preparation()(*given)
    assert texts_of(x) == ["the cat", "a red bee", "a dog", "the cat"]
    assert sorted(x) == ["encoder_padding_mask", "encoder_token_ids"]
    # The query of the first row and the document of the second are the same text.
    assert y["texts"][:, 0].tolist() == [[0, 1], [0, 1], [2, 0], [2, 0]]


def test_negatives_prompts_and_a_teacher(rng):
    table = {"query": QUERIES, "document": DOCUMENTS, "negative": ["a bee", "the dog"]}
    vectors = rng.standard_normal((3, 2, 4), "float32")
    for key, part in zip(KEYS_OF_EMBEDDERS[3:], vectors, strict=True):
        table[key] = part
    x, y = preparation(("is ", "in "))(table)
    want = ["is the cat", "in a red bee", "in a bee", "is a dog", "in the cat", "in the dog"]
    assert texts_of(x) == want
    assert y["texts"].shape == (6, 1, 3)
    np.testing.assert_array_equal(y["teacher"][:, 0], vectors.transpose(1, 0, 2).reshape(6, 4))


ONES = np.ones((2, 4))
BOTH = {"query": QUERIES, "document": DOCUMENTS}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (({"query": QUERIES},), ValueError, "`query` and its `document`.*without ['document']"),
        ((QUERIES,), ValueError, "`query` and its `document`.*without ['document']"),
        ((BOTH, DOCUMENTS), ValueError, "Documents must be given once"),
        (({**BOTH, "negative": ["a", None]},), TypeError, "`negative` must be a string.*row 1"),
        (({**BOTH, "negative": ["a"]},), ValueError, "as many rows.*'negative': 1"),
        (({**BOTH, "query_embedding": ONES},), ValueError, "for all of"),
        (
            ({**BOTH, "query_embedding": ONES, "document_embedding": ONES[:, :3]},),
            ValueError,
            "of shape (2, width)",
        ),
        ((BOTH, None, [1.0, 1.0]), ValueError, "rows have no weights"),
        (({"encoder_token_ids": ONES},), ValueError, "take texts, `query` and `document`"),
    ],
)
def test_what_is_refused(given, error, message):
    with pytest.raises(error, match=re.escape(message).replace(r"\.\*", ".*")):
        preparation()(*given)
