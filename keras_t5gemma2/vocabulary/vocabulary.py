"""Vocabulary files of either kind, run by the `tokenizers` library.

A SentencePiece model is run by `tokenizers` too: its own library reads "▁▁ " and "<unk>" in a text
another way than the published `tokenizer.json` does, and nothing says that the two always agree on
the rest.
"""

import functools
import json
import os
import re

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from keras_t5gemma2.messages import cause
from keras_t5gemma2.vocabulary.sentencepiece_model import (
    ADDED_TYPES,
    SPACE,
    merges,
    read_sentencepiece_model,
    rename_piece,
)
from keras_t5gemma2.vocabulary.special_tokens import CONTROL_TOKENS


class Vocabulary:
    """Token ids of texts, and texts of token ids, without `<bos>` and `<eos>`.

    Args:
        proto: string, path-like or bytes. A SentencePiece model or a `tokenizer.json`, or the
            path of one. Which of the two it is, is seen from the content.

    Raises:
        ValueError: if the file cannot be read, or is neither of the two.
    """

    def __init__(self, proto):
        self.data, source = _read(proto)
        self.is_json = is_json = _is_json(self.data)
        try:
            self._tokenizer = (_from_json if is_json else _from_sentencepiece)(self.data)
            self.tokens = _tokens_by_id(self._tokenizer)
        except ValueError as error:
            kind = "`tokenizer.json`" if is_json else "SentencePiece model"
            raise ValueError(
                "`proto` must be a SentencePiece model or a `tokenizer.json`. "
                f"Received: {source}, which is no usable {kind}: {cause(error)}"
            ) from error

    def __len__(self):
        return len(self.tokens)

    # The files are read once and never change: copies share them, pickles read them again.
    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Vocabulary, (self.data,)

    def token_to_id(self, token):
        """The id of a token, or None."""
        return self._tokenizer.token_to_id(token)

    @property
    def unk_token(self):
        """The token for what no other token covers, or None."""
        return self._tokenizer.model.unk_token

    def to_json(self, start_token, special_tokens):
        """The bytes of a `tokenizer.json` of this vocabulary, in the form of the published one.

        One that was read from such a file comes back to the byte, unless it puts nothing before a
        text.

        Args:
            start_token: string, which comes before each text where one is asked for.
            special_tokens: collection of strings, the tokens that `skip_special_tokens` skips. A
                `tokenizer.json` has its own.
        """
        if self.is_json and json.loads(self.data.decode("utf-8-sig")).get("post_processor"):
            return self.data
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start_token} $A",
            pair=f"{start_token} $A {start_token}:1 $B:1",
            special_tokens=[(start_token, self.token_to_id(start_token))],
        )
        if not self.is_json:
            # It splits nothing, since no space is left by then; the published file has it.
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
            added = tokenizer.get_added_tokens_decoder().values()
            tokenizer.add_special_tokens([t for t in added if t.content in special_tokens])
        return tokenizer.to_str(pretty=True).encode("utf-8")

    def to_plain_json(self):
        """A `tokenizer.json` of this vocabulary, a string, with its merges whatever the file is."""
        return self._tokenizer.to_str()

    def encode(self, texts):
        """A list of ids for each text of a list."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts):
        """A list of ids for each text of a list, and a list of the (start, end) of each token."""
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [e.ids for e in encodings], [list(e.offsets) for e in encodings]

    @functools.cached_property
    def control_tokens(self):
        """Frozenset of the tokens that steer a model, which no text of a user may stand for."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        is_control = re.compile(CONTROL_TOKENS).fullmatch
        found = {token.content for token in added if token.special or is_control(token.content)}
        return frozenset(found)

    @functools.cached_property
    def without_control_tokens(self):
        """The `Vocabulary` of the same ids that finds control tokens in no text."""
        content = json.loads(self._tokenizer.to_str())
        control = self.control_tokens
        content["added_tokens"] = [
            token for token in content["added_tokens"] if token["content"] not in control
        ]
        # Older files have a pair as one string.
        pairs = content["model"]["merges"]
        joined = (p.replace(" ", "") if isinstance(p, str) else "".join(p) for p in pairs)
        content["model"]["merges"] = [
            pair for pair, token in zip(pairs, joined, strict=True) if token not in control
        ]
        return Vocabulary(json.dumps(content, ensure_ascii=False).encode())

    def decode(self, ids):
        """The text of a list of ids in range, control tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def decode_each(self):
        """A list of the texts of all tokens, each alone."""
        ids = [[id] for id in range(len(self))]
        return self._tokenizer.decode_batch(ids, skip_special_tokens=False)


def t5gemma2_vocabulary(proto):
    """The vocabulary of T5Gemma 2, from that of Gemma 3: the bytes of a file of the same kind.

    They differ in one token: T5Gemma 2 keeps its images at the id of Gemma 3's `<unused99>`,
    while Gemma 3 adds `<image_soft_token>` behind the last id, or not at all.

    Args:
        proto: string, path-like or bytes. A SentencePiece model or a `tokenizer.json`, or the
            path of one.

    Raises:
        ValueError: if the vocabulary has neither token.
    """
    data, source = _read(proto)
    rename = _rename_in_json if _is_json(data) else rename_piece
    renamed = rename(data, "<unused99>", "<image_soft_token>")
    if renamed == data and b"<image_soft_token>" not in data:
        raise ValueError(
            "`proto` must hold the token `<unused99>` of Gemma 3, or `<image_soft_token>` already. "
            f"Received: {source}"
        )
    return renamed


def _read(proto):
    """The bytes, and what to call them in an error."""
    if isinstance(proto, bytes):
        return proto, f"{len(proto)} bytes that begin with {proto[:16]}"
    if not isinstance(proto, (str, os.PathLike)):
        raise TypeError(f"`proto` must be a path or bytes. Received: {type(proto).__name__}")
    path = os.path.expanduser(os.fspath(proto))
    try:
        with open(path, "rb") as file:
            return file.read(), f"the file '{path}'"
    except OSError as error:
        raise ValueError(
            f"`proto` must be a file that can be read. Received: '{path}' ({error.strerror})"
        ) from error


def _is_json(data):
    # A SentencePiece model can begin with a line break and a brace, but no quotation mark follows.
    return re.match(rb'(\xef\xbb\xbf)?\s*\{\s*("|\}|$)', data) is not None


def _from_json(data):
    tokenizer = _parse_json(data)
    if not isinstance(tokenizer.model, BPE):
        raise ValueError(
            f"its model must be byte-pair encoding (BPE), not {type(tokenizer.model).__name__}"
        )
    # Where texts are cut and padded is up to the preprocessor.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _parse_json(data):
    try:
        return Tokenizer.from_str(data.decode("utf-8-sig"))
    except (KeyboardInterrupt, SystemExit):
        raise
    # `tokenizers` raises plain exceptions, and panics, which are no exceptions, on some files.
    except BaseException as error:
        raise ValueError(error) from error


def _from_sentencepiece(data):
    model = read_sentencepiece_model(data)
    ids = {piece: index for index, piece in enumerate(model.pieces)}
    tokenizer = Tokenizer(
        BPE(
            ids,
            merges(model),
            unk_token=model.unk_piece,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece, normalized=False)
            for piece, kind in zip(model.pieces, model.types, strict=True)
            if kind in ADDED_TYPES
        ]
    )
    return tokenizer


def _tokens_by_id(tokenizer):
    ids = tokenizer.get_vocab()
    tokens = [None] * len(ids)
    for token, index in ids.items():
        if index >= len(ids) or tokens[index] is not None:
            raise ValueError(
                f"its {len(ids)} tokens must have the ids from 0 on, each one its own, and the id "
                f"of '{token}' is {index}"
            )
        tokens[index] = token
    return tokens


def _rename_in_json(data, old, new):
    try:
        content = json.loads(data)
        vocabulary, added = content["model"]["vocab"], content["added_tokens"]
        if old not in vocabulary:
            return data
        content["added_tokens"] = [
            token | {"content": new} if token["content"] == old else token
            for token in added
            if token["content"] != new
        ]
        content["model"]["vocab"] = {
            new if token == old else token: index for token, index in vocabulary.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"`proto` is no `tokenizer.json` with a vocabulary: {cause(error)}"
        ) from error
    return json.dumps(content, ensure_ascii=False).encode()
