"""SentencePiece model files: writing them from lists of pieces, reading them, merging by them.

The files are protocol buffers. Their few fields are written and read here, because the classes
that `sentencepiece` ships for them need `protobuf`, which it does not install.
"""

import enum
import math
import struct
from typing import NamedTuple

from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.protocol_buffer import ZERO, field, fields_of

# How a space is spelled in a piece.
SPACE = "▁"


class PieceType(enum.IntEnum):
    """The numbers that the file format, and GGUF's `token_type`, have for kinds of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Pieces that are found in a text as they stand, before the rest of it is merged.
# Plain integers, because the hash of an enumeration's member is slow.
ADDED_TYPES = frozenset({2, 3, 4})

_TYPES = frozenset(kind.value for kind in PieceType)
_BPE = 2  # the `model_type` of byte-pair encoding; without the field it is 1, unigram


class SentencePieceModel(NamedTuple):
    """What a SentencePiece file says. The index of a piece is its id."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    byte_fallback: bool

    @property
    def unk_piece(self):
        """The piece for what no other piece covers."""
        return self.pieces[self.types.index(PieceType.UNKNOWN)]


def sentencepiece_model(pieces, scores, types, *, bos_id, eos_id, pad_id, unk_id):
    """The bytes of a SentencePiece file of these pieces, which may come out of a GGUF file.

    Two things are written as Gemma's own files have them, which GGUF files do not keep: spaces in
    pieces become "▁", and pieces that are added to the vocabulary by hand score 0.

    Args:
        pieces: list of strings, all different. The index is the id.
        scores: list of floats, one per piece. What scores higher is merged earlier.
        types: list of integers, one per piece: values of `PieceType`.
        bos_id: int. Id of the piece that begins a sequence.
        eos_id: int. Id of the piece that ends a sequence.
        pad_id: int. Id of the padding piece.
        unk_id: int. Id of the piece for what no other piece covers.

    Raises:
        ValueError: if the lists differ in length, an id is no index of them, or they are not the
            pieces of one vocabulary.

    Example:

    >>> model = sentencepiece_model(
    ...     pieces=["<pad>", "<eos>", "<bos>", "<unk>", "▁", "h", "i", "hi"],
    ...     scores=[0, 0, 0, 0, -3, -2, -1, 0],
    ...     types=[3, 3, 3, 2, 1, 1, 1, 1],
    ...     bos_id=2,
    ...     eos_id=1,
    ...     pad_id=0,
    ...     unk_id=3,
    ... )
    >>> read_sentencepiece_model(model).pieces[4:]
    ['▁', 'h', 'i', 'hi']
    """
    if not len(pieces) == len(scores) == len(types):
        raise ValueError(
            "`pieces`, `scores` and `types` must have one entry per id. Received: "
            f"{len(pieces)} pieces, {len(scores)} scores, {len(types)} types"
        )
    special_ids = {"unk_id": unk_id, "bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id}
    for name, value in special_ids.items():
        if value not in range(len(pieces)):
            raise ValueError(
                f"`{name}` must be the index of one of the {len(pieces)} pieces. "
                f"Received: {name}={shown(value)}"
            )
    pieces = [piece.replace(" ", SPACE) for piece in pieces]
    types = [_check_type(kind) for kind in types]
    for value in special_ids.values():
        types[value] = int(PieceType.UNKNOWN if value == unk_id else PieceType.CONTROL)
    scores = [
        0.0 if kind in ADDED_TYPES else score for score, kind in zip(scores, types, strict=True)
    ]
    model = SentencePieceModel(pieces, scores, types, PieceType.BYTE in types)
    _check(model)
    return _write(model, special_ids.values())


def read_sentencepiece_model(data):
    """What a SentencePiece file says.

    Args:
        data: bytes of the file.

    Returns:
        A `SentencePieceModel`.

    Raises:
        ValueError: if the bytes are not such a file, or it describes another way of splitting
            text than Gemma's: byte-pair encoding of the text as it is.
    """
    pieces, trainer, normalizer = [], {}, {}
    for number, value in fields_of(data):
        if number == 1:
            pieces.append(_read_piece(value))
        elif number == 2:
            trainer = dict(fields_of(value))
        elif number == 3:
            normalizer = dict(fields_of(value))
    if not pieces:
        raise ValueError("it holds no pieces")
    _check_specification(trainer, normalizer)
    pieces, scores, types = map(list, zip(*pieces, strict=True))
    model = SentencePieceModel(pieces, scores, types, byte_fallback=bool(trainer.get(35)))
    _check(model)
    return model


def rename_piece(data, old, new):
    """The bytes of a SentencePiece file with one piece renamed and nothing else changed.

    Args:
        data: bytes of the file.
        old: string, a piece.
        new: string, its new name.
    """
    old, new = field(1, old), field(1, new)
    written = bytearray()
    for number, value in fields_of(data):
        if number == 1 and value.startswith(old):
            value = new + value[len(old) :]
        written += field(number, value)
    return bytes(written)


def merges(model):
    """Pairs of pieces that byte-pair encoding merges, the first to be merged first.

    Every way to cut a piece into two pieces is a pair. The order is that of the `tokenizer.json`
    files that Google publishes for Gemma: by score, then by the length of the left part.

    Args:
        model: `SentencePieceModel`.

    Returns:
        A list of pairs of strings.
    """
    vocabulary = set(model.pieces)
    ranked = []
    for piece, score in zip(model.pieces, model.scores, strict=True):
        length = len(piece)
        for cut in range(1, length):
            # Fewer pieces are the end of another than its beginning, so the end goes first.
            right = piece[cut:]
            if right in vocabulary and (left := piece[:cut]) in vocabulary:
                ranked.append((-score, -cut, cut - length, left, right))
    ranked.sort(key=lambda row: row[:3])
    return [row[3:] for row in ranked]


def _check(model):
    _check_all_different(model.pieces)
    if not all(map(math.isfinite, model.scores)):
        raise ValueError("the score of a piece is not a number")
    if model.types.count(PieceType.UNKNOWN) != 1:
        raise ValueError(
            f"one piece must be of the type unknown, not {model.types.count(PieceType.UNKNOWN)}"
        )
    types = zip(model.pieces, model.types, strict=True)
    found = {piece for piece, kind in types if kind == PieceType.BYTE}
    needed = {f"<0x{byte:02X}>" for byte in range(256)} if model.byte_fallback else set()
    if found != needed:
        raise ValueError(
            "with byte fallback its byte pieces must be <0x00> to <0xFF>, and without it there "
            f"must be none. Byte fallback: {model.byte_fallback}, byte pieces: {len(found)}"
        )


def _check_all_different(pieces):
    ids = {}
    for index, piece in enumerate(pieces):
        if not piece:
            raise ValueError(f"the piece {index} is empty")
        if piece in ids:
            raise ValueError(f"the pieces {ids[piece]} and {index} are both '{piece}'")
        ids[piece] = index


def _check_specification(trainer, normalizer):
    """Anything but Gemma's way of splitting would give other ids than `tokenizers`."""
    found = {
        "model_type": trainer.get(3, 1),
        "treat_whitespace_as_suffix": trainer.get(24, 0),
        "precompiled_charsmap": normalizer.get(2, b""),
        "add_dummy_prefix": normalizer.get(3, 1),
        "remove_extra_whitespaces": normalizer.get(4, 1),
        "escape_whitespaces": normalizer.get(5, 1),
    }
    needed = (_BPE, 0, b"", 0, 0, 1)
    for (name, value), need in zip(found.items(), needed, strict=True):
        if value != need:
            raise ValueError(f"its `{name}` must be {need}, not {shown(value)}")


def _read_piece(data):
    fields = dict(fields_of(data))
    try:
        piece = fields[1].decode()
        score = struct.unpack("<f", fields.get(2, ZERO))[0]
    except (KeyError, AttributeError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError("a piece has no text in UTF-8, or a score that is no float") from error
    return piece, score, _check_type(fields.get(3, 1))


def _check_type(value):
    if value not in _TYPES:
        numbers = ", ".join(f"{kind.value} ({kind.name.lower()})" for kind in PieceType)
        raise ValueError(f"the type of a piece must be one of {numbers}, not {shown(value)}")
    return int(value)


def _write(model, special_ids):
    data = bytearray()
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        data += field(1, field(1, piece) + field(2, float(score)) + field(3, kind))
    trainer = field(3, _BPE) + field(4, len(model.pieces)) + field(35, model.byte_fallback)
    # Numbers 40 to 43 are the ids of unk, bos, eos and pad; 45 to 48 are their pieces.
    for number, special_id in enumerate(special_ids, start=40):
        trainer += field(number, special_id) + field(number + 5, model.pieces[special_id])
    # Nothing is replaced, put in front or removed; spaces become "▁".
    normalizer = field(1, "identity") + field(3, 0) + field(4, 0) + field(5, 1)
    return bytes(data + field(2, trainer) + field(3, normalizer))
