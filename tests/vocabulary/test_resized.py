"""Smaller and larger vocabularies as files, read by us and by others."""

import io
import json

import pytest
import sentencepiece
from tiny_vocabulary import tiny_tokenizer_data
from tokenizers import Tokenizer, processors

from keras_t5gemma2.checkpoints.keras_hub.tokenizer import sentencepiece_of
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.vocabulary.derivations import chosen
from keras_t5gemma2.vocabulary.protocol_buffer import field, fields_of
from keras_t5gemma2.vocabulary.resized import (
    ids_of_post_processor,
    with_more_tokens,
    with_tokens,
)
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

pytestmark = pytest.mark.once

TINY = Vocabulary(tiny_tokenizer_data())
EMBEDDED = T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").loaded_vocabulary()
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = ["the cat is in the garden", "what is this?\n\n\tsee <table>", "Straße 12, 日本", "  a  b"]
# A `tokenizer.json` that SentencePiece can express, which the other one is not.
EXPRESSED = Vocabulary(EMBEDDED.to_json("<bos>", {"<bos>", "<pad>"}))
ALIKE = pytest.mark.parametrize("vocabulary", [EXPRESSED, EMBEDDED], ids=["json", "sentencepiece"])
BOTH = pytest.mark.parametrize("vocabulary", [TINY, EMBEDDED], ids=["json", "sentencepiece"])


def smaller(vocabulary, texts=TEXTS):
    """Without two of the first tokens, so that every special id behind them is another one."""
    needed = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>", *BYTES}
    ids = {vocabulary.token_to_id(token) for token in needed}
    counts = {id: 1 for text in vocabulary.encode(texts) for id in text}
    kept = chosen(vocabulary, ids, counts)
    assert len(kept) < len(vocabulary)
    return Vocabulary(with_tokens(vocabulary, kept)), kept


@BOTH
def test_a_smaller_vocabulary_is_a_file_of_the_same_kind(vocabulary):
    small, kept = smaller(vocabulary)
    assert small.is_json == vocabulary.is_json
    assert small.unk_token == vocabulary.unk_token
    assert [[kept[id] for id in ids] for ids in small.encode(TEXTS)] == vocabulary.encode(TEXTS)
    assert [small.decode(ids) for ids in small.encode(TEXTS)] == TEXTS


@BOTH
def test_what_is_gone_is_spelled_in_bytes(vocabulary):
    small, _ = smaller(vocabulary, ["the cat"])
    text = "Ω ключ ☃ the cat"
    assert small.decode(small.encode([text])[0]) == text
    assert small.token_to_id("<unk>") not in small.encode([text])[0]


@BOTH
def test_as_a_tokenizer_json_it_is_the_same(vocabulary):
    small, _ = smaller(vocabulary)
    special = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>"}
    other = Tokenizer.from_str(small.to_json("<bos>", special).decode())
    for text, ids in zip(TEXTS, small.encode(TEXTS), strict=True):
        assert other.encode(text).ids == [small.token_to_id("<bos>"), *ids]


@ALIKE
def test_as_a_sentencepiece_model_it_is_the_same(vocabulary):
    """By the library of this name, which finds its special ids in fields of their own."""
    small, _ = smaller(vocabulary)
    data = sentencepiece_of(small)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    texts = [text for text in TEXTS if "  " not in text]  # these it reads in another way
    assert processor.encode(texts) == small.encode(texts)
    for name in ("pad", "eos", "bos", "unk"):
        assert getattr(processor, f"{name}_id")() == small.token_to_id(f"<{name}>")
    assert processor.vocab_size() == len(small)


def test_special_ids_of_a_trained_model_are_renumbered_and_its_other_fields_stay():
    """Files of sentencepiece's own trainer hold floats, and tests of ids that were."""
    stream = io.BytesIO()
    sentences = iter(["the cat sees the dog", "a dog in the garden"] * 40)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=stream,
        model_type="bpe",
        vocab_size=300,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=260,
        unk_id=0,
        bos_id=261,
        eos_id=262,
        pad_piece="<pad>",
        bos_piece="<bos>",
        eos_piece="<eos>",
        minloglevel=2,
    )
    samples = field(1, field(1, "dog") + field(2, "x"))  # which would no longer hold
    vocabulary = Vocabulary(stream.getvalue() + field(4, samples))
    ids = {vocabulary.token_to_id(f"<{name}>") for name in ("pad", "eos", "bos", "unk")}
    ids |= {vocabulary.token_to_id(byte) for byte in BYTES}
    gone = vocabulary.token_to_id("dog")
    kept = chosen(vocabulary, ids, {id: 1 for id in vocabulary.encode(["the cat"])[0]})
    assert gone not in kept
    for data in (with_tokens(vocabulary, kept), with_more_tokens(vocabulary, ["Katze"])):
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        small = Vocabulary(data)
        for name in ("pad", "eos", "bos", "unk"):
            assert getattr(processor, f"{name}_id")() == small.token_to_id(f"<{name}>")
        assert processor.vocab_size() == len(small)
        assert processor.encode("the cat") == small.encode(["the cat"])[0]
        trainer, before = (
            dict(fields_of(dict(fields_of(file))[2])) for file in (data, vocabulary.data)
        )
        assert trainer[10] == before[10]  # a float
        assert trainer[4] == len(small)
        for number, name in enumerate(("unk", "bos", "eos", "pad"), start=40):
            assert trainer[number] == small.token_to_id(f"<{name}>")


def test_a_post_processor_gets_the_new_ids():
    data = json.loads(tiny_tokenizer_data())
    bert = processors.BertProcessing(("<eos>", 1), ("<bos>", 2))
    for made in (None, json.loads(bert.__getstate__())):
        if made is not None:
            data["post_processor"] = {"type": "Sequence", "processors": [made]}
        vocabulary = Vocabulary(json.dumps(data).encode())
        around = ids_of_post_processor(vocabulary)
        assert around == ({2} if made is None else {1, 2})
        kept = sorted({*range(1, len(vocabulary))} - {3, 4})  # <pad> goes
        other = Tokenizer.from_str(with_tokens(vocabulary, kept).decode())
        old = Tokenizer.from_str(vocabulary.data.decode())
        assert [kept[id] for id in other.encode("the cat").ids] == old.encode("the cat").ids
    assert ids_of_post_processor(EMBEDDED) == set()


@BOTH
def test_new_tokens_are_found_in_a_text_and_nothing_else_changes(vocabulary):
    large = Vocabulary(with_more_tokens(vocabulary, ["Katze", "Haus", "猫"]))
    count = len(vocabulary)
    assert large.tokens == [*vocabulary.tokens, "Katze", "Haus", "猫"]
    assert large.encode(["Katze"]) == [[count]]
    assert large.encode(["xKatzen"])[0] == [
        *vocabulary.encode(["x"])[0],
        count,
        *vocabulary.encode(["n"])[0],
    ]
    rest = ["Straße 12", "a red bee\n\n", "K a t z e"]
    assert large.encode(rest) == vocabulary.encode(rest)
    text = "the 猫 is eine Katze."
    assert large.decode(large.encode([text])[0]) == text


@ALIKE
def test_new_tokens_are_those_of_other_formats_too(vocabulary):
    large = Vocabulary(with_more_tokens(vocabulary, ["Katze", "cat", "猫"]))
    texts = ["the cat and a Katze", "猫cats", "concatenate"]
    other = Tokenizer.from_str(large.to_json("<bos>", {"<bos>"}).decode())
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_of(large))
    for text, ids in zip(texts, large.encode(texts), strict=True):
        assert len(vocabulary) + 1 in ids or len(vocabulary) + 2 in ids
        assert other.encode(text, add_special_tokens=False).ids == ids
        assert processor.encode(text) == ids


def test_new_tokens_behind_added_ones_keep_their_ids():
    """Of a `tokenizer.json` whose added tokens are not in its vocabulary of merges."""
    content = json.loads(tiny_tokenizer_data())
    next_id = len(content["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": next_id, "content": "<own>", **flags})
    vocabulary = Vocabulary(json.dumps(content).encode())
    large = Vocabulary(with_more_tokens(vocabulary, ["Katze"]))
    assert large.encode(["<own>Katze"]) == [[next_id, next_id + 1]]


@pytest.mark.parametrize(
    ("tokens", "error", "text"),
    [
        ("Katze", TypeError, "must be a list of strings. Received: tokens='Katze'"),
        (["Katze", 3], TypeError, "must be a list of strings"),
        ([], ValueError, "at least one token"),
        (["die Katze", ""], ValueError, "without spaces.*Received: 'die Katze', ''"),
        (["▁Katze"], ValueError, "without spaces.*'▁Katze'"),
        (["\ud800"], ValueError, "valid Unicode"),
        (["<bos>", "Katze"], ValueError, "not be in the vocabulary yet. Received: '<bos>'"),
        (["Katze", "Katze"], ValueError, "Received twice: 'Katze'"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused(tokens, error, text):
    with pytest.raises(error, match=text):
        with_more_tokens(EMBEDDED, tokens)
