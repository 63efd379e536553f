"""The host's side of generation: rows of ids to padded arrays of few shapes, and back."""

import math
from typing import NamedTuple

import numpy as np

from keras_t5gemma2.preprocessing.packing import bucket, stack_images
from keras_t5gemma2.preprocessing.read_image import to_numpy

SEEN = ("images", "image_features")
_SORTED_BATCHES = 16
# The most new tokens of a row where nobody says how many. A cache has room for them alone.
NEW_TOKENS = 256


class Rows(NamedTuple):
    """What a batch of generation starts from, row by row."""

    encoder_ids: list  # per row, (length,) ids; may be empty
    encoder_masks: list  # per row, (length,) bool; where False the decoder sees no token
    prompts: list  # per row, (length,) ids, at least one
    seen: dict  # `images` or `image_features` as the model takes them, or nothing


def rows_of_prompts(prompts):
    """`Rows` of which only the decoder's side is there."""
    return Rows([], [], prompts, {})


def rows_of_encoded(encoded):
    """`Rows` of what the preprocessor's `encode_rows` gives."""
    masks = [np.ones(len(ids), bool) for ids in encoded.encoder_ids]
    rows = {name: getattr(encoded, name) for name in SEEN}
    seen = {name: stack_images(images) for name, images in rows.items() if images is not None}
    return Rows(encoded.encoder_ids, masks, encoded.decoder_ids, seen)


def rows_of_arrays(inputs):
    """`Rows` of a dict of arrays as the backbone takes them, padded on either side."""
    arrays = {name: to_numpy(value) for name, value in inputs.items()}
    return Rows(
        list(arrays["encoder_token_ids"]),
        list(arrays["encoder_padding_mask"].astype(bool)),
        prompts_of_arrays(inputs),
        {name: arrays[name] for name in SEEN if name in arrays and arrays[name].shape[1]},
    )


def prompts_of_arrays(inputs):
    """Per row of such a dict, the ids of the decoder's prompt."""
    ids, mask = (to_numpy(inputs[f"decoder_{name}"]) for name in ("token_ids", "padding_mask"))
    return [row[there] for row, there in zip(ids, mask.astype(bool), strict=True)]


def sorted_batches(lengths, batch_size, parts=1):
    """Lists of row indices: rows of similar length, and as many in each.

    Each number of rows is a program to compile: the last batch repeats its last row. Similar rows
    are sought among sixteen batches, so that an interruption leaves rows of every length.

    Args:
        lengths: a length for each row, or a tuple of lengths.
        batch_size: int.
        parts: int. Devices that share the rows of a batch, of which each is to get as many. A
            single row they compute together.

    >>> sorted_batches([3, 9, 1, 8, 2], batch_size=2)
    [[2, 4], [0, 3], [1, 1]]
    >>> sorted_batches([3, 9, 1], batch_size=8, parts=2)
    [[2, 0, 1, 1]]
    """
    rows = range(len(lengths))
    size = math.ceil(len(rows) / math.ceil(len(rows) / batch_size))
    size += -size % parts if size > 1 else 0
    order = []
    for start in range(0, len(rows), _SORTED_BATCHES * size):
        order += sorted(rows[start : start + _SORTED_BATCHES * size], key=lengths.__getitem__)
    batches = [order[start : start + size] for start in range(0, len(rows), size)]
    return [batch + batch[-1:] * (size - len(batch)) for batch in batches]


def row_of(rows, index):
    """One of the rows, alone."""
    *lists, seen = rows
    seen = {name: values[index : index + 1] for name, values in seen.items()}
    return Rows(*([values[index]] for values in lists), seen)


def size_of(length, smallest):
    """The `bucket` of a length, of fewer sizes: three of them together make a program."""
    return bucket(length, smallest, middles_from=256)


def pad_rows(rows, new_tokens):
    """The arrays that `generate_step` takes.

    Encoder ids are padded at the right and prompts at the left, so that every row's first new
    token has the same slot.

    Args:
        rows: `Rows`.
        new_tokens: int. Tokens to generate for the row that gets most.
    """
    return {**pad_encoder(rows), **pad_prompts(rows, new_tokens)}


def pad_encoder(rows, length=None):
    """The part of `pad_rows` that is the encoder's, padded to `length` where it is given."""
    if length is None:
        length = size_of(max(len(ids) for ids in rows.encoder_ids), smallest=64)
    return {
        "encoder_token_ids": _stack(rows.encoder_ids, length),
        "encoder_padding_mask": _stack(rows.encoder_masks, length),
        **rows.seen,
    }


def pad_prompts(rows, new_tokens):
    """The part of `pad_rows` that is the decoder's."""
    longest = max(len(prompt) for prompt in rows.prompts)
    length = 1 if longest == 1 else size_of(longest, smallest=16)
    room = size_of(new_tokens, smallest=32)
    return {
        "decoder_token_ids": _stack(rows.prompts, length, side="left"),
        "decoder_padding_mask": _stack([p * 0 + 1 for p in rows.prompts], length, "left"),
        # Its length is the room for new tokens; -1 is no token, so that it never looks like one.
        "new_token_ids": np.full((len(rows.prompts), room), -1, "int32"),
        "new_tokens": np.asarray(new_tokens, "int32"),
    }


def new_tokens_of_rows(token_ids, prompt_length, budgets, stop_token_ids):
    """Per row, the tokens generated: up to its budget, or to a stop token and with it.

    Where logits were not finite, `finite.NOT_FINITE` stands to the end.
    """
    generated = []
    for row, budget in zip(token_ids, budgets, strict=True):
        new = row[prompt_length : prompt_length + budget]
        new = new[new != -1]
        stops = np.flatnonzero(np.isin(new, stop_token_ids or ()))
        generated.append(new[: stops[0] + 1] if stops.size else new)
    return generated


def pad_targets(prompts, new):
    """The decoder's arrays of a training step on tokens that follow prompts, padded at the right.

    Args:
        prompts: per row (length,) ids, at least one.
        new: per row the ids that come after them, at least one.

    Returns:
        A dict of `decoder_token_ids`, `decoder_padding_mask` and `labels`, of one shape; labels
        are -1 where no new token is to come next.
    """
    rows = [np.concatenate(pair) for pair in zip(prompts, new, strict=True)]
    length = bucket(max(map(len, rows)) - 1)
    labels = _stack([row[1:] + 1 for row in rows], length) - 1
    for label, prompt in zip(labels, prompts, strict=True):
        label[: len(prompt) - 1] = -1
    return {**pad_outputs([row[:-1] for row in rows], length), "labels": labels}


def pad_outputs(rows, length):
    """Token ids and padding mask of (rows, length) int32 and bool, padded at the right with 0."""
    mask = _stack([np.ones_like(row) for row in rows], length).astype(bool)
    return {"decoder_token_ids": _stack(rows, length), "decoder_padding_mask": mask}


def _stack(rows, length, side="right"):
    stacked = np.zeros((len(rows), length), "int32")
    for target, row in zip(stacked, rows, strict=True):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        target[where] = row
    return stacked
