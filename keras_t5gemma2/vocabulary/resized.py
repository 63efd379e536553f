"""A vocabulary with fewer or with more tokens: the bytes of a file of the same kind."""

import json

from keras_t5gemma2.messages import shown, shown_names
from keras_t5gemma2.vocabulary.protocol_buffer import field, fields_of
from keras_t5gemma2.vocabulary.sentencepiece_model import SPACE, PieceType

# Fields of a SentencePiece file and of its trainer's part.
_PIECE, _TRAINER, _SELF_TEST = 1, 2, 4
_VOCABULARY_SIZE = 4
_SPECIAL_IDS = {40: 0, 41: 1, 42: 2, 43: None}  # of unk, bos, eos and pad, with their defaults


def with_tokens(vocabulary, ids):
    """The file of a vocabulary that holds some of the tokens of another one.

    Args:
        vocabulary: `Vocabulary`.
        ids: sorted list of the ids that are kept. The new ids are the places in it.

    Returns:
        Bytes of a SentencePiece model or a `tokenizer.json`, as that of `vocabulary`.
    """
    new_ids = {old: new for new, old in enumerate(ids)}
    keep = _keep_in_json if vocabulary.is_json else _keep_pieces
    return keep(vocabulary.data, new_ids)


def with_more_tokens(vocabulary, tokens):
    """The file of a vocabulary with further tokens, which are found in a text as they stand.

    Args:
        vocabulary: `Vocabulary`.
        tokens: list of strings. Their ids follow the last one, in this order.

    Returns:
        Bytes of a SentencePiece model or a `tokenizer.json`, as that of `vocabulary`.

    Raises:
        TypeError: a token is no string.
        ValueError: a token is empty, holds a space, is no valid Unicode, comes twice, or is there
            already.
    """
    _check_new(vocabulary, tokens)
    add = _add_to_json if vocabulary.is_json else _add_pieces
    return add(vocabulary.data, tokens, len(vocabulary))


def _check_new(vocabulary, tokens):
    if isinstance(tokens, (str, bytes)) or not all(isinstance(token, str) for token in tokens):
        raise TypeError(f"`tokens` must be a list of strings. Received: tokens={shown(tokens)}")
    if not tokens:
        raise ValueError("`tokens` must hold at least one token. Received: tokens=[]")
    spoiled = [token for token in tokens if not token or {" ", SPACE} & set(token)]
    spoiled += [token for token in tokens if token.encode("utf-8", "ignore").decode() != token]
    if spoiled:
        raise ValueError(
            "A new token must be at least one character of valid Unicode, without spaces, which "
            f"are a part of other tokens. Received: {shown_names(spoiled)}"
        )
    if known := [token for token in tokens if vocabulary.token_to_id(token) is not None]:
        raise ValueError(
            "A new token must not be in the vocabulary yet. Received: "
            f"{shown_names(known)}. Leave out what is there"
        )
    if len(set(tokens)) < len(tokens):
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        raise ValueError(f"Each new token must come once. Received twice: {shown_names(twice)}")


# SentencePiece models --------------------------------------------------------------------------


def _keep_pieces(data, new_ids):
    written, id = bytearray(), 0
    for number, value in fields_of(data):
        if number == _PIECE:
            id += 1
            if id - 1 not in new_ids:
                continue
        elif number == _SELF_TEST:  # it has the ids of before
            continue
        elif number == _TRAINER:
            value += _new_ids(dict(fields_of(value)), new_ids)
        written += field(number, value)
    return bytes(written)


def _new_ids(trainer, new_ids):
    """Fields that stand behind those of before: of several, a reader takes the last."""
    data = field(_VOCABULARY_SIZE, len(new_ids))
    for number, default in _SPECIAL_IDS.items():
        old = trainer.get(number, default)
        if old in new_ids:
            data += field(number, new_ids[old])
    return data


def _add_pieces(data, tokens, count):
    written = bytearray()
    for number, value in fields_of(data):
        if number == _SELF_TEST:
            continue
        if number == _TRAINER:
            value += field(_VOCABULARY_SIZE, count + len(tokens))
        written += field(number, value)
    kind = int(PieceType.USER_DEFINED)
    for token in tokens:
        written += field(_PIECE, field(1, token) + field(2, 0.0) + field(3, kind))
    return bytes(written)


# `tokenizer.json` ------------------------------------------------------------------------------


def _keep_in_json(data, new_ids):
    content = json.loads(data.decode("utf-8-sig"))
    model = content["model"]
    model["vocab"] = {
        token: new_ids[id]
        for token, id in sorted(model["vocab"].items(), key=lambda item: item[1])
        if id in new_ids
    }
    content["added_tokens"] = [
        {**token, "id": new_ids[token["id"]]}
        for token in content["added_tokens"]
        if token["id"] in new_ids
    ]
    model["merges"] = [pair for pair in model["merges"] if _is_known(_pair(pair), model["vocab"])]
    content["post_processor"] = _renumbered(content.get("post_processor"), new_ids)
    return json.dumps(content, ensure_ascii=False).encode()


def _pair(merge):
    return tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)


def _is_known(pair, ids):
    left, right = pair
    return left in ids and right in ids and left + right in ids


def _renumbered(value, new_ids):
    """A post-processor with new ids: of a template, or of a start and an end token."""
    if isinstance(value, list):
        return [_renumbered(part, new_ids) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: _renumbered(part, new_ids) for key, part in value.items()}
    if isinstance(value.get("ids"), list) and "tokens" in value:
        found["ids"] = [new_ids[id] for id in value["ids"]]
    for name in ("sep", "cls"):
        if isinstance(value.get(name), list):
            token, id = value[name]
            found[name] = [token, new_ids[id]]
    return found


def _add_to_json(data, tokens, count):
    content = json.loads(data.decode("utf-8-sig"))
    known, new_ids = content["model"]["vocab"], range(count, count + len(tokens))
    if len(known) == count:  # else some tokens are added ones alone, and so are these
        known |= dict(zip(tokens, new_ids, strict=True))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [
        {"id": id, "content": token, **flags} for token, id in zip(tokens, new_ids, strict=True)
    ]
    return json.dumps(content, ensure_ascii=False).encode()


def ids_of_post_processor(vocabulary):
    """The ids that the `tokenizer.json` of a vocabulary puts around a text."""
    if not vocabulary.is_json:
        return set()
    found = set()

    def look(value):
        if isinstance(value, dict):
            found.update(value["ids"] if isinstance(value.get("ids"), list) else ())
            pairs = [value.get(name) for name in ("sep", "cls")]
            found.update(pair[1] for pair in pairs if isinstance(pair, list))
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, (dict, list)):
                look(part)

    look(json.loads(vocabulary.data.decode("utf-8-sig")).get("post_processor") or {})
    return found
