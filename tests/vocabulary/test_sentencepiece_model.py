"""SentencePiece files against the library that defines them."""

import io

import pytest
import sentencepiece

from keras_t5gemma2.vocabulary.sentencepiece_model import (
    SentencePieceModel,
    merges,
    read_sentencepiece_model,
    rename_piece,
    sentencepiece_model,
)

pytestmark = pytest.mark.once

IDS = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
# Two spaces as in a GGUF file, which also scores what was added by hand below everything else.
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "  ", "▁", "a", "b", "aa", "ab", "aab", "▁a"]
SCORES = [-1000.0] * 5 + [-7.5, -6.5, -5.5, -1.0, -0.0, -2.0, -3.0]
TYPES = [3, 3, 3, 3, 4, 1, 1, 1, 1, 1, 1, 1]


def test_reads_what_it_writes():
    model = read_sentencepiece_model(sentencepiece_model(PIECES, SCORES, TYPES, **IDS))
    assert model.pieces == [*PIECES[:4], "▁▁", *PIECES[5:]]
    assert model.scores == [0.0] * 5 + SCORES[5:]
    assert model.types == [3, 3, 3, 2, *TYPES[4:]]
    assert model.byte_fallback is False
    assert model.unk_piece == "<unk>"


def test_sentencepiece_reads_what_is_written():
    data = sentencepiece_model(PIECES, SCORES, TYPES, **IDS)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    ids = list(range(len(PIECES)))
    model = read_sentencepiece_model(data)
    assert processor.id_to_piece(ids) == model.pieces
    assert processor.get_score(ids) == model.scores
    assert [processor.is_control(i) for i in ids] == [kind == 3 for kind in model.types]
    special = processor.bos_id(), processor.eos_id(), processor.pad_id(), processor.unk_id()
    assert special == (2, 1, 0, 3)
    assert processor.encode("aab  ab a") == [10, 4, 9, 11]


def test_reads_what_sentencepiece_trains():
    data = _trained(model_type="bpe", byte_fallback=True, user_defined_symbols=["<table>"])
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    model = read_sentencepiece_model(data)
    ids = list(range(processor.vocab_size()))
    assert model.pieces == processor.id_to_piece(ids)
    assert model.scores == processor.get_score(ids)
    assert [kind == 6 for kind in model.types] == [processor.is_byte(i) for i in ids]
    assert model.types[model.pieces.index("<table>")] == 4
    assert model.byte_fallback is True


def test_merges_go_by_score_and_then_by_the_length_of_the_left_part():
    model = SentencePieceModel(
        ["<unk>", "a", "b", "aa", "aaa", "ab", "aab"], [0.0, -9, -9, -3, -2, -1, -2], [1] * 7, False
    )
    assert merges(model) == [
        ("a", "b"),
        ("aa", "a"),
        ("aa", "b"),
        ("a", "aa"),
        ("a", "ab"),
        ("a", "a"),
    ]


def test_rename_changes_one_piece_and_nothing_else():
    data = _trained(model_type="bpe", byte_fallback=True, user_defined_symbols=["<unused99>"])
    renamed = rename_piece(data, "<unused99>", "<image_soft_token>")
    old, new = read_sentencepiece_model(data), read_sentencepiece_model(renamed)
    place = old.pieces.index("<unused99>")
    assert new.pieces[place] == "<image_soft_token>"
    assert new.pieces[:place] + new.pieces[place + 1 :] == (
        old.pieces[:place] + old.pieces[place + 1 :]
    )
    assert new[1:] == old[1:]
    assert rename_piece(renamed, "<image_soft_token>", "<unused99>") == data


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model_type": "unigram"}, r"`model_type` must be 2, not 1"),
        ({"add_dummy_prefix": True}, r"`add_dummy_prefix` must be 0, not 1"),
        ({"remove_extra_whitespaces": True}, r"`remove_extra_whitespaces` must be 0, not 1"),
        ({"normalization_rule_name": "nfkc"}, r"`precompiled_charsmap` must be b'', not b"),
        ({"treat_whitespace_as_suffix": True}, r"`treat_whitespace_as_suffix` must be 0, not 1"),
    ],
)
def test_another_way_of_splitting_is_an_error(options, match):
    with pytest.raises(ValueError, match=match):
        read_sentencepiece_model(_trained(**{"model_type": "bpe", **options}))


@pytest.mark.parametrize(
    ("normalizer", "match"),
    [
        # Without a value they are those of the file format, which are not Gemma's.
        (b"", r"`add_dummy_prefix` must be 0, not 1"),
        (b"\x18\x00", r"`remove_extra_whitespaces` must be 0, not 1"),
        (b"\x18\x00\x20\x00\x28\x00", r"`escape_whitespaces` must be 1, not 0"),
    ],
)
def test_spaces_treated_another_way_are_an_error(normalizer, match):
    data = sentencepiece_model(PIECES, SCORES, TYPES, **IDS)
    specification = b"\x1a" + bytes([len(normalizer)]) + normalizer
    with pytest.raises(ValueError, match=match):
        read_sentencepiece_model(data + specification)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scores": SCORES[1:]}, "12 pieces, 11 scores, 12 types"),
        ({"bos_id": 12}, "one of the 12 pieces. Received: bos_id=12"),
        ({"unk_id": None}, "unk_id=None"),
        ({"types": [3] * 11 + [7]}, r"6 \(byte\), not 7"),
        ({"pieces": [*PIECES[:11], "aa"]}, "pieces 8 and 11 are both 'aa'"),
        ({"pieces": [*PIECES[:11], ""]}, "the piece 11 is empty"),
        ({"types": [3] * 11 + [6]}, "Byte fallback: True, byte pieces: 1"),
        ({"scores": [*SCORES[:11], float("nan")]}, "score of a piece is not a number"),
    ],
)
def test_lists_that_are_no_vocabulary_are_an_error(change, match):
    arguments = {"pieces": PIECES, "scores": SCORES, "types": TYPES, **IDS, **change}
    with pytest.raises(ValueError, match=match):
        sentencepiece_model(**arguments)


def test_a_file_cut_off_anywhere_is_an_error():
    data = sentencepiece_model(PIECES, SCORES, TYPES, **IDS)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"its end is missing|must be|holds no"):
            read_sentencepiece_model(data[:length])


def test_a_damaged_byte_gives_another_model_or_an_error():
    data = sentencepiece_model(PIECES, SCORES, TYPES, **IDS)
    errors = 0
    for place in range(len(data)):
        for byte in (0, 0x0A, 0x7F, 0x80, 0xFF):
            try:
                read_sentencepiece_model(data[:place] + bytes([byte]) + data[place + 1 :])
            except ValueError:
                errors += 1
    assert errors > len(data)


def _trained(**options):
    sentences = ["the quick brown fox", "a lazy dog", "the dog and the fox", "quick lazy brown"]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        **{
            "sentence_iterator": iter(sentences * 5),
            "model_writer": written,
            "vocab_size": 290 if options.get("byte_fallback") else 30,
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "normalization_rule_name": "identity",
            "hard_vocab_limit": False,
            "minloglevel": 2,
            **options,
        }
    )
    return written.getvalue()
