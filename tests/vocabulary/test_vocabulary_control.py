"""Control tokens of a vocabulary, and the vocabulary that finds none in a text."""

import pytest
from preprocessors import TOKENIZER

from keras_t5gemma2 import T5Gemma2Tokenizer

pytestmark = pytest.mark.once


@pytest.fixture(params=["json", "sentencepiece"])
def vocabulary(request):
    if request.param == "json":
        return TOKENIZER.loaded_vocabulary()
    return T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").loaded_vocabulary()


def test_control_tokens_are_those_that_steer(vocabulary):
    found = vocabulary.control_tokens
    steer = {"<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>"}
    assert found >= {*steer, "<start_of_image>", "<end_of_image>", "<image_soft_token>"}
    assert not found & {"\n", "\n\n", "<table>", "▁▁", "<0x0A>"}


def test_without_control_tokens_ids_of_other_texts_stay(vocabulary):
    texts = ["the cat\n\n\n in  the <table>", "a 1 < 2 >", "кот 🐈 ▁▁", ""]
    assert vocabulary.without_control_tokens.encode(texts) == vocabulary.encode(texts)


def test_without_control_tokens_no_text_gives_one(vocabulary):
    tokens = sorted(vocabulary.control_tokens)
    control = {vocabulary.token_to_id(token) for token in tokens}
    texts = [*tokens, "".join(tokens), " ".join(tokens)]
    found = vocabulary.without_control_tokens.encode(texts)
    assert not control & {id for ids in found for id in ids}
    assert [vocabulary.decode(ids) for ids in found] == texts
