"""Gemma's 262,144 tokens against transformers, and files that are no vocabulary."""

import copy
import hashlib
import json
import os
import pickle
import random

import pytest
import tiny_vocabulary
from gemma3_real import gemma3_gguf_path
from tokenizers import AddedToken, Tokenizer, models
from transformers import GemmaTokenizer
from transformers.convert_slow_tokenizer import generate_merges

from keras_t5gemma2.checkpoints.gemma3.gguf import sentencepiece_in_gguf
from keras_t5gemma2.vocabulary.sentencepiece_model import (
    ADDED_TYPES,
    merges,
    read_sentencepiece_model,
    sentencepiece_model,
)
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary, t5gemma2_vocabulary

pytestmark = pytest.mark.once

# Of the merges in the `tokenizer.json` that Google publishes for Gemma 3, as JSON.
PUBLISHED_MERGES = 514_906, "28f0da07a202375fab3a5ad12f4b748e3426817ce7377723d25d7f88f43d8593"

TEXTS = [
    *("", " ", "a", "Hello, world!", " leading", "trailing ", "a b  c   d", "don't stop"),
    # Runs longer than the longest run in the vocabulary, of 31.
    *(character * n for character in " \n\t" for n in (2, 3, 30, 31, 32, 33, 62, 63, 64, 100)),
    *(f"a{' ' * n}b" for n in range(1, 70)),
    *(f"if x:\n{' ' * n}return y\n\n\n" for n in (2, 4, 8, 32, 40)),
    *("  \n  \n\t \t  ", "\r\n\r\n", "\r", " \t\n\r\x0b\x0c", "a\u00a0b\u2003c\u200bd\ufeffe"),
    # The character that stands for a space, and runs of it that are tokens.
    *("▁", "▁▁", "▁▁▁ x", "  ▁▁", "▁ ▁", "a▁b", " ▁", "▁" * 40, "▁▁▁▁ ▁  ▁▁"),
    # Tokens that are added to the vocabulary: adjacent, nested, cut off, in another case.
    *("<bos>", "<bos>a<eos>", "<pad><pad>", "<unk>", "a<unk>b", "<mask>", "[multimodal]"),
    *("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn", "<BOS>"),
    *("<table><tr><td>1</td></tr></table>", "<<table>>", "<tab<table>le>", "</ table>", "<h1 >"),
    *("<start_of_image><end_of_image>", "<image_soft_token>", "<unused99><unused6241>", "<unused"),
    "<a href=\"x\"><b>bold</b><i>i</i></a><br/><!-- --><div class='c'>",
    # What looks like a byte token, bytes below 32, and what only bytes can spell.
    *("<0x0A>", "<0x00><0xFF>", "0x0A", "\0", "a\0b\0\0", "\x01\x02\x1b[0m\x7f\x80\x9f"),
    *("\U000e0041\U000f0000\U0010ffff", "\ufffe\uffff", "𐀀𒀀𓀀", "\u0378", "ꙮ"),
    # The same letters composed and decomposed are different texts.
    *("é", "e\u0301", "Å\u212bA\u030a", "ﬁ①Ⅷ", "q\u0307\u0323", "a\u0300\u0301\u0302\u0303" * 9),
    *("👨‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇩🇪🇯🇵", "☺️☺", "e\u200dx", "🫠🫨🪿"),
    "Ὀδυσσεύς, съешь ещё этих мягких французских булок, Zażółć gęślą jaźń, Đặng",
    *("今日は世界、吾輩は猫である。ｶﾀｶﾅ", "我们在这里。漢字𠮷𠀋", "안녕하세요 세계 ㄱㄴㄷ"),
    *("مرحبا بالعالم\u200f، اَلسَّلَامُ عَلَيْكُمْ", "שָׁלוֹם עוֹלָם", "نمی\u200cخواهم"),
    *("नमस्ते दुनिया क्ष त्र ज्ञ", "বাংলা ভাষা", "தமிழ் மொழி", "สวัสดีชาวโลก กำลัง", "မြန်မာ"),
    *("ქართული ენა", "Հայերեն", "አማርኛ", "ខ្មែរ", "བོད་ཡིག", "ᚠᚢᚦ", "ߒߞߏ"),
    "def f(x: int) -> str:\n\treturn f'{x!r:>{10}}'  # ok\n\n\nclass A(B): pass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 3; } /* \\n */ #define X(y) y##_z\r\n",
    "3.14159 1,000,000 0xDEADBEEF 1e-9 2^10 50% $5.00 №7 ½ ٣٤ 一二三",
    *(c * n for c in ("a", "ha", "=", "-", ".", "0", "ab", "!?", "█") for n in (7, 31, 64, 1000)),
    *("x" * 10_000, "loremipsum" * 1_000, "漢字" * 5_000, "🙂" * 2_500, "a " * 5_000),
]


_IDS = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}


@pytest.fixture(scope="module")
def gemma3_model():
    """The bytes of Gemma 3's SentencePiece model."""
    return sentencepiece_in_gguf(gemma3_gguf_path())


@pytest.fixture(scope="module")
def gemma3_parsed(gemma3_model):
    return read_sentencepiece_model(gemma3_model)


@pytest.fixture(scope="module")
def gemma3(gemma3_model):
    return Vocabulary(gemma3_model)


@pytest.fixture(scope="module")
def reference(gemma3_parsed):
    """Transformers' own tokenizer, with merges made by its converter of SentencePiece models."""
    pieces, scores, types, _ = gemma3_parsed
    ids = {piece: index for index, piece in enumerate(pieces)}
    pairs = generate_merges(ids, dict(zip(pieces, scores, strict=True)))
    tokenizer = GemmaTokenizer(vocab=ids, merges=pairs)
    added = [piece for piece, kind in zip(pieces, types, strict=True) if kind in ADDED_TYPES]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in added])
    return tokenizer.backend_tokenizer


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """The bytes of a file of a few hundred tokens, of either kind."""
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    data = tiny_vocabulary.tiny_tokenizer_json(path).read_bytes()
    content = json.loads(data)
    pieces = list(content["model"]["vocab"])
    added = {token["content"] for token in content["added_tokens"]}
    types = [3 if p in added else 6 if p.startswith("<0x") else 1 for p in pieces]
    model = sentencepiece_model(pieces, [-float(i) for i in range(len(pieces))], types, **_IDS)
    return {"tokenizers": data, "sentencepiece": model}


@pytest.mark.real
@pytest.mark.slow
def test_merges_are_the_published_ones(gemma3_parsed):
    pairs = merges(gemma3_parsed)
    digest = hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()
    assert (len(pairs), digest) == PUBLISHED_MERGES


@pytest.mark.slow
@pytest.mark.real
def test_ids_equal_the_reference_on_texts_of_all_kinds(gemma3, reference):
    _check_equal_and_inverted(gemma3, reference, TEXTS)


@pytest.mark.real
@pytest.mark.slow
def test_ids_equal_the_reference_on_every_piece(gemma3, reference):
    texts = [token.replace("▁", " ") for token in gemma3.tokens]
    _check_equal_and_inverted(gemma3, reference, texts)


@pytest.mark.real
def test_ids_equal_the_reference_on_random_texts(gemma3, reference):
    _check_equal_and_inverted(gemma3, reference, list(_random_texts(gemma3.tokens, 4000)))


@pytest.mark.real
def test_the_vocabulary_of_t5gemma2_has_its_image_token_at_256001(gemma3_model, gemma3_parsed):
    old = gemma3_parsed.pieces
    new = read_sentencepiece_model(t5gemma2_vocabulary(gemma3_model)).pieces
    changes = [(i, *pair) for i, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1]
    assert len(new) == 262_144
    assert changes == [(256_001, "<unused99>", "<image_soft_token>")]


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizers"])
def test_either_kind_of_file_gives_a_vocabulary(kind, small_files):
    vocabulary = Vocabulary(small_files[kind])
    assert vocabulary.tokens[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert len(vocabulary) == len(vocabulary.tokens)
    assert vocabulary.unk_token == "<unk>"
    assert vocabulary.token_to_id("<bos>") == 2
    assert vocabulary.token_to_id("no token") is None
    text = "the cat\n\nin  this <table>\tgarden é<eos>"
    ids = vocabulary.encode([text, ""])
    assert vocabulary.decode(ids[0]) == text
    assert ids[1] == []
    assert ids[0].count(vocabulary.token_to_id("<table>")) == 1
    assert ids[0][-1] == 1


def test_the_kind_of_a_file_is_known_by_its_content(small_files, tmp_path):
    path = tmp_path / "any.name"
    for data in small_files.values():
        path.write_bytes(data)
        for proto in (path, str(path)):
            assert Vocabulary(proto).data == data
            assert Vocabulary(proto).tokens == Vocabulary(data).tokens
    # A first piece of the right length makes a SentencePiece model begin like spaced-out JSON.
    model = sentencepiece_model(["x" * 114, *"abc"], [0] * 4, [3, 3, 3, 2], **_IDS)
    assert model.startswith(b"\n{")
    assert Vocabulary(model).tokens[1:] == ["a", "b", "c"]
    for spaced in (b"\xef\xbb\xbf", b" \n"):
        assert len(Vocabulary(spaced + small_files["tokenizers"])) > 300


def test_truncation_and_padding_of_the_file_are_switched_off(small_files):
    tokenizer = Tokenizer.from_str(small_files["tokenizers"].decode())
    text = "the original image and here"
    needed = [tokenizer.encode(text, add_special_tokens=False).ids, []]
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    assert Vocabulary(tokenizer.to_str().encode()).encode([text, ""]) == needed


def test_special_tokens_in_a_text_are_found_whatever_their_kind(small_files):
    for data in small_files.values():
        ids = Vocabulary(data).encode(["<bos>a<eos>", "<unk>", "▁▁ ", "▁▁▁▁▁"])
        assert ids[0][0] == 2
        assert ids[0][-1] == 1
        assert ids[1] == [3]
        # Runs of "▁" are looked up before spaces are spelled like it.
        assert len(ids[2]) == 2
        assert len(ids[3]) == 2


def test_what_no_piece_covers_is_one_unknown_token_without_byte_fallback():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b"]
    model = sentencepiece_model(pieces, [0.0] * 7, [3, 3, 3, 2, 1, 1, 1], **_IDS)
    assert Vocabulary(model).encode(["a漢字b cd"]) == [[5, 3, 6, 4, 3]]


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizers"])
def test_copies_and_pickles_give_the_same_ids(kind, small_files):
    vocabulary = Vocabulary(small_files[kind])
    needed = vocabulary.encode(["the cat"])
    assert pickle.loads(pickle.dumps(vocabulary)).encode(["the cat"]) == needed
    assert copy.deepcopy(vocabulary).encode(["the cat"]) == needed


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizers"])
def test_gemma3_tokens_become_those_of_t5gemma2(kind, small_files):
    data = small_files[kind].replace(b"<image_soft_token>", b"<unused99>__stand>")
    with pytest.raises(ValueError, match=r"must hold the token `<unused99>`.*\d+ bytes"):
        t5gemma2_vocabulary(data)
    # It has the image token and nothing to rename.
    assert t5gemma2_vocabulary(small_files[kind]) == small_files[kind]


def test_the_image_token_behind_the_last_id_of_gemma3_is_dropped(small_files):
    content = json.loads(small_files["tokenizers"])
    old = "<image_soft_token>"
    vocabulary = content["model"]["vocab"]
    place = vocabulary.pop(old)
    vocabulary["<unused99>"] = place
    for token in content["added_tokens"]:
        if token["content"] == old:
            token["content"] = "<unused99>"
    content["added_tokens"].append(
        {**content["added_tokens"][0], "id": len(vocabulary), "content": old}
    )
    gemma3 = Vocabulary(json.dumps(content).encode())
    assert gemma3.token_to_id(old) == len(gemma3) - 1
    found = Vocabulary(t5gemma2_vocabulary(gemma3.data))
    assert found.token_to_id(old) == place
    assert found.token_to_id("<unused99>") is None
    assert found.tokens == Vocabulary(small_files["tokenizers"]).tokens
    assert found.encode([f"a{old}b"])[0][1] == place


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"0 bytes that begin with b''.*no usable SentencePiece model: it holds no pieces"),
        (b"not a vocabulary", r"begin with b'not a vocabulary'.*no usable SentencePiece model"),
        (b"version https://git-lfs.github.com", r"b'version https://'.*no usable SentencePiece"),
        (b"{", r"no usable `tokenizer.json`: EOF while parsing"),
        (b'{"version": "1.0"}', r"no usable `tokenizer.json`: Model missing"),
        (b'{"model": "\xff"}', r"no usable `tokenizer.json`: .*utf-8.* can't decode byte 0xff"),
    ],
)
def test_bytes_that_are_no_vocabulary_are_an_error(data, match):
    with pytest.raises(ValueError, match=match):
        Vocabulary(data)


def test_a_damaged_file_is_named(small_files, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(small_files["tokenizers"][:-100])
    with pytest.raises(
        ValueError, match=rf"the file '{path}', which is no usable `tokenizer.json`"
    ):
        Vocabulary(path)
    path.write_bytes(small_files["sentencepiece"][:-100])
    with pytest.raises(ValueError, match=rf"'{path}', which is no usable SentencePiece model: its"):
        Vocabulary(path)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (models.WordPiece({"a": 0}, unk_token="a"), "must be byte-pair encoding.*not WordPiece"),
        (models.WordLevel({"a": 0}, unk_token="a"), "must be byte-pair encoding.*not WordLevel"),
        (models.Unigram([("a", 0.0)], 0), "must be byte-pair encoding.*not Unigram"),
        (models.BPE({"a": 0, "b": 5}, []), "its 2 tokens must have the ids from 0 on.*'b' is 5"),
    ],
)
def test_other_models_and_ids_with_holes_are_an_error(model, match):
    with pytest.raises(ValueError, match=match):
        Vocabulary(Tokenizer(model).to_str().encode())


def test_two_tokens_of_one_id_are_an_error():
    model = {"type": "BPE", "vocab": {"a": 1, "b": 1}, "merges": []}
    with pytest.raises(ValueError, match=r"its 2 tokens must have the ids from 0 on.*'[ab]' is 1"):
        Vocabulary(json.dumps({"version": "1.0", "model": model}).encode())


def test_a_file_on_which_tokenizers_panics_is_an_error():
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}
    with pytest.raises(ValueError, match=r"no usable `tokenizer.json`: .+"):
        Vocabulary(json.dumps({"version": "1.0", "model": model}).encode())


@pytest.mark.parametrize(
    ("proto", "error", "match"),
    [
        ("no/such/file", ValueError, r"Received: 'no/such/file' \(No such file or directory\)"),
        (os.curdir, ValueError, r"Received: '.' \(Is a directory\)"),
        (["<pad>"], TypeError, "must be a path or bytes. Received: list"),
    ],
)
def test_what_is_no_file_is_an_error(proto, error, match):
    for function in (Vocabulary, t5gemma2_vocabulary):
        with pytest.raises(error, match=match):
            function(proto)


def test_json_without_a_vocabulary_cannot_be_renamed():
    with pytest.raises(ValueError, match=r"no `tokenizer.json` with a vocabulary: 'model'"):
        t5gemma2_vocabulary(b'{"version": "1.0"}')


def _check_equal_and_inverted(vocabulary, reference, texts):
    found = vocabulary.encode(texts)
    needed = reference.encode_batch_fast(texts, add_special_tokens=False)
    for text, ids, encoding in zip(texts, found, needed, strict=True):
        assert ids == encoding.ids, f"{text!r:.200}"
        # "▁" is spelled like a space.
        assert vocabulary.decode(ids) == text.replace("▁", " "), f"{text!r:.200}"


def _random_texts(tokens, count):
    """Repetitions over few characters, pieces of the vocabulary, and any characters at all."""
    random_ = random.Random(7)
    few = ["a", "b", "ab", "ha", "-", "=", "0", "▁", "▁▁", " ", "  ", "\n", "\t", "<", ">", "アハ"]
    ranges = [range(0x500), range(0x500, 0x3000), range(0x3000, 0xD800), range(0xE000, 0x110000)]
    for _ in range(count // 4):
        yield "".join(random_.choices(random_.sample(few, 3), k=random_.randint(1, 40)))
        yield "".join(random_.choices(few, k=random_.randint(1, 40)))
        yield "".join(random_.choices(tokens, k=random_.randint(1, 12)))
        kinds = random_.choices(ranges, k=random_.randint(1, 20))
        yield "".join(chr(random_.choice(kind)) for kind in kinds)
