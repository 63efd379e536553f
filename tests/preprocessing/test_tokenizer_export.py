"""Tokenizers that are exported: the same pieces, merges and ids in the reference's libraries."""

import hashlib
import json

import numpy as np
import pytest
from checkpoints import load_gemma3_tokenizer
from gemma3_real import PROMPTS, gemma3_gguf_path
from tasks import TOKENIZER
from tiny_vocabulary import tiny_tokenizer_data
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from keras_t5gemma2 import T5Gemma2Tokenizer
from keras_t5gemma2.checkpoints.transformers.files import tokenizer_config
from keras_t5gemma2.vocabulary.sentencepiece_model import read_sentencepiece_model

pytestmark = pytest.mark.once

TEXTS = [
    *("", " ", "  ", "\n", "\n\n\n", "\t x", "a  b   c ", " leading", "▁▁ x ▁", "don't"),
    *("<bos><eos><pad>", "<unk> <mask> <unused99>", "a<start_of_image>b<end_of_image>\n"),
    *("<start_of_turn>user\nhi<end_of_turn>", "<extra_id_0> <unused6241>", "<0x0A>"),
    *("4268 = viertausend", "žluťoučký kůň", "日本語 中文 한국어", "مرحبا بالعالم", "हिन्दी"),
    *("🦒👩‍👩‍👧", "\u200b\u00a0\ufeff", "e\u0301", "\r\n", "\x00\x07", "𝔘𝔫𝔦", "x" * 300),
    *PROMPTS,
]


# With a quarter of a million pieces and half a million merges, a minute and more.
REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.slow])


@pytest.fixture(scope="module", params=["preset", REAL])
def tokenizer(request):
    """A tokenizer that was made from a SentencePiece model."""
    if request.param == "real":
        return load_gemma3_tokenizer(gemma3_gguf_path())
    return T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    return in_transformers(tokenizer, tmp_path_factory.mktemp("tokenizer"))


def in_transformers(tokenizer, directory):
    config = tokenizer_config(tokenizer, sees_images=True)
    (directory / "tokenizer.json").write_bytes(tokenizer.to_tokenizer_json())
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(directory)


def random_texts(tokenizer, count):
    """Strings of random pieces and of random characters."""
    rng = np.random.default_rng(0)
    pieces = tokenizer.get_vocabulary()
    for _ in range(count):
        yield "".join(pieces[i] for i in rng.integers(len(pieces), size=9)).replace("▁", " ")
        yield "".join(map(chr, rng.integers(1, 0x3000, size=9)))


def test_every_piece_in_the_order_of_the_scores(tokenizer):
    stored = json.loads(tokenizer.to_tokenizer_json())
    model = read_sentencepiece_model(tokenizer.loaded_vocabulary().data)
    assert stored["model"]["vocab"] == {piece: i for i, piece in enumerate(model.pieces)}
    scores = dict(zip(model.pieces, model.scores, strict=True))
    merges = [left + right for left, right in stored["model"]["merges"]]
    order = [scores[piece] for piece in merges]
    assert order == sorted(order, reverse=True)
    # Whatever can be put together at all, is.
    cuts = {
        piece
        for piece in model.pieces
        if any(piece[:i] in scores and piece[i:] in scores for i in range(1, len(piece)))
    }
    assert set(merges) == cuts
    flags = (stored["model"][key] for key in ("unk_token", "byte_fallback", "fuse_unk"))
    assert list(flags) == [model.unk_piece, model.byte_fallback, True]


def test_special_tokens(tokenizer, theirs):
    assert len(theirs) == tokenizer.vocabulary_size()
    special = {*tokenizer.special_tokens, "<unk>"}
    if "<mask>" in tokenizer.get_vocabulary():
        special.add("<mask>")
    assert set(theirs.all_special_tokens) == special
    for name in ("bos", "eos", "pad", "boi", "eoi", "image"):
        ours = {"bos": "start", "eos": "end", "boi": "start_of_image", "eoi": "end_of_image"}
        wanted = getattr(tokenizer, f"{ours.get(name, name)}_token_id")
        assert getattr(theirs, f"{name}_token_id") == wanted
    assert theirs.padding_side == "right"
    turn = [tokenizer.start_of_turn_token_id, *tokenizer("the cat"), tokenizer.end_token_id]
    assert theirs.decode(turn, skip_special_tokens=True) == "the cat"


def test_ids_and_texts(tokenizer, theirs):
    bare = Tokenizer.from_str(tokenizer.to_tokenizer_json().decode())
    for text in [*TEXTS, *random_texts(tokenizer, 300)]:
        ids = tokenizer(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids, text
        assert theirs(text).input_ids == [tokenizer.start_token_id, *ids], text
        assert bare.encode(text, add_special_tokens=False).ids == ids, text
        assert theirs.decode(ids) == tokenizer.detokenize(ids), text


def test_two_texts(tokenizer, theirs):
    start = [tokenizer.start_token_id]
    a, b = tokenizer(["the cat", "a dog"])
    assert theirs("the cat", "a dog").input_ids == [*start, *a, *start, *b]


def test_a_tokenizer_json_stays_as_it_is(tmp_path):
    assert TOKENIZER.to_tokenizer_json() == tiny_tokenizer_data()
    theirs = in_transformers(TOKENIZER, tmp_path)
    for text in TEXTS:
        assert theirs(text).input_ids == [2, *TOKENIZER(text)]
    assert theirs.mask_token_id == 4


def test_what_puts_nothing_before_a_text_is_told_to(tmp_path):
    content = json.loads(tiny_tokenizer_data())
    content["post_processor"] = None
    tokenizer = T5Gemma2Tokenizer(json.dumps(content).encode())
    found = json.loads(tokenizer.to_tokenizer_json())
    template = found.pop("post_processor")
    assert template["single"][0] == {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    content.pop("post_processor")
    assert found == content
    assert in_transformers(tokenizer, tmp_path)("the cat").input_ids[0] == 2


@pytest.mark.real
@pytest.mark.slow
def test_the_published_file_to_the_byte():
    """From the SentencePiece model in a GGUF file of Gemma 3: the digest is the hub's."""
    data = load_gemma3_tokenizer(gemma3_gguf_path()).to_tokenizer_json()
    digest = "f5b325224482ec441ec5fbe2a5ac08c3758e0f9605f6e54368e31f736fcfb01d"
    assert (len(data), hashlib.sha256(data).hexdigest()) == (33_384_387, digest)


def test_no_vocabulary():
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        T5Gemma2Tokenizer().to_tokenizer_json()
