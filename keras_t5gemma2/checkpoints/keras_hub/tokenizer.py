"""The tokenizer of a preset of keras-hub: a SentencePiece model, found, and made where need be."""

import json
import pathlib
import re

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.vocabulary.sentencepiece_model import (
    SPACE,
    PieceType,
    merges,
    read_sentencepiece_model,
    sentencepiece_model,
)

TOKENIZER_ASSET = pathlib.PurePath("assets", "tokenizer", "vocabulary.spm")

# The pieces that a SentencePiece model has its own fields for.
_SPECIAL = {"unk_id": "<unk>", "bos_id": "<bos>", "eos_id": "<eos>", "pad_id": "<pad>"}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# What a `tokenizer.json` must say for SentencePiece to split text in the same way.
_MODEL = {
    "type": ("BPE",),
    "unk_token": ("<unk>",),
    "fuse_unk": (True,),
    "dropout": (None,),
    "ignore_merges": (None, False),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
# After the normalizer there is no space left to split at.
_PRE_TOKENIZERS = (
    None,
    {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    },
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def tokenizer_asset(directory):
    """The `pathlib.Path` of the SentencePiece model of a preset directory, or `None`."""
    path = pathlib.Path(directory) / TOKENIZER_ASSET
    return path if path.is_file() else None


def sentencepiece_of(vocabulary):
    """The bytes of the SentencePiece model of a `Vocabulary`, made out of a `tokenizer.json`.

    Raises:
        ValueError: the `tokenizer.json` splits text in a way that SentencePiece does not have.
    """
    if not vocabulary.is_json:
        return vocabulary.data
    try:
        content = json.loads(vocabulary.data)
        pieces = _checked_pieces(content, vocabulary)
        proto = _proto(content, pieces)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "The tokenizer must be one that SentencePiece can express, which is all that "
            f"keras-hub's T5Gemma 2 reads. Received: a tokenizer.json of which {cause(error, 1000)}"
        ) from error
    return proto


def _checked_pieces(content, vocabulary):
    """All tokens by id, of a `tokenizer.json` whose rules are those of SentencePiece."""
    for key, allowed in _MODEL.items():
        if content["model"].get(key) not in allowed:
            raise ValueError(
                f"`model.{key}` is {shown(content['model'].get(key))}, not {allowed[0]!r}"
            )
    if content["normalizer"] != _NORMALIZER:
        raise ValueError(f"`normalizer` is {content['normalizer']}, not {_NORMALIZER}")
    if content["pre_tokenizer"] not in _PRE_TOKENIZERS:
        raise ValueError(f"`pre_tokenizer` is {content['pre_tokenizer']}, not null")
    for token in content["added_tokens"]:
        for flag in _FLAGS:
            if token[flag]:
                raise ValueError(f"the added token {shown(token['content'])} is {flag}")
    return vocabulary.tokens


def _proto(content, pieces):
    """The model, whose merges must come out as they are in the `tokenizer.json`."""
    rules = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in _rules(content)]
    ranks = {}
    for rank, (left, right) in enumerate(rules):
        ranks.setdefault(left + right, rank)
    added = {token["content"] for token in content["added_tokens"]}
    proto = sentencepiece_model(
        pieces,
        [-float(ranks.get(piece, len(rules))) for piece in pieces],
        [_type(piece, added, content["model"].get("byte_fallback")) for piece in pieces],
        **{name: pieces.index(piece) for name, piece in _SPECIAL.items()},
    )
    # Added tokens are found before anything is merged, and no merge comes to them or goes on from
    # them; but those of "▁", a space, may be merged in a text that is spelled with spaces.
    unreached = {token for token in added if SPACE not in token}
    again, rules = (
        [pair for pair in pairs if not unreached & {*pair, "".join(pair)}]
        for pairs in (merges(read_sentencepiece_model(proto)), rules)
    )
    if again != rules:
        differing = sum(a != b for a, b in zip(again, rules, strict=False))
        raise ValueError(
            f"the {len(rules)} merges are not those that follow from scores of pieces: "
            f"{len(again)} follow, and {differing} are at another place"
        )
    return proto


def _rules(content):
    return content["model"]["merges"]


def _type(piece, added, has_bytes):
    if piece in added:
        return PieceType.USER_DEFINED
    return PieceType.BYTE if has_bytes and _BYTE.fullmatch(piece) else PieceType.NORMAL
