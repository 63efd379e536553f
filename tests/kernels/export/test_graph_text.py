"""A tokenizer inside a graph of TensorFlow."""

import sys

import keras
import pytest

import keras_t5gemma2
from keras_t5gemma2.export.strings import text_graph

pytestmark = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="its graphs")


@pytest.fixture(scope="module")
def tokenizer():
    return keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")


@pytest.fixture  # what it holds ends with the session of each test
def text(tokenizer):
    return text_graph(tokenizer, tokenizer.vocabulary_size())


def test_control_tokens_are_found_as_they_stand(tokenizer, text):
    texts = [
        "",
        "<eos>",
        "a<bos><eos> b",
        "<eos",
        "\n\n\nzwei\n",
        "<start_of_turn>user\nHi",
        "\x00",
    ]
    assert text.encode(texts).to_list() == tokenizer(texts)


def test_texts_of_ids(tokenizer, text):
    texts = ["  zwei ▁ drei<eos>", "ᾰ🙂\x00é", ""]
    rows = tokenizer(texts)
    length = max(map(len, rows))
    ids = [[*row, *[0] * (length - len(row))] for row in rows]
    kept = [[place < len(row) for place in range(length)] for row in rows]
    found = [one.decode() for one in text.decode(ids, kept, "").numpy()]
    assert found == tokenizer.detokenize(rows)
    ended = [one.decode() for one in text.decode(ids, kept, " drei").numpy()]
    assert ended == ["  zwei  ", *found[1:]]


def test_bytes_that_are_no_text(tokenizer, text):
    ids = [[tokenizer.token_to_id("<0xFF>"), *tokenizer("a")]]
    assert text.decode(ids, [[True, True]], "").numpy()[0].decode() == "\ufffda"
    with pytest.raises(Exception, match="[Ii]nvalid"):
        text.encode([b"\xff"])


def test_tensorflow_text_is_asked_for(monkeypatch, tokenizer):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    with pytest.raises(ImportError, match="Install it with `pip install tensorflow-text`"):
        text_graph(tokenizer, tokenizer.vocabulary_size())
