"""The host's side of generation: rows of ids to padded arrays of few shapes, and back."""

from typing import NamedTuple

import numpy as np

from keras_t5gemma2.preprocessing.packing import stack_images
from keras_t5gemma2.preprocessing.read_image import to_numpy

SEEN = ("images", "image_features")


class Rows(NamedTuple):
    """What a batch of generation starts from, row by row."""

    encoder_ids: list  # per row, (length,) ids; may be empty
    encoder_masks: list  # per row, (length,) bool; where False the decoder sees no token
    prompts: list  # per row, (length,) ids, at least one
    seen: dict  # `images` or `image_features` as the model takes them, or nothing


def rows_of_encoded(encoded):
    """`Rows` of what the preprocessor's `encode_rows` gives."""
    masks = [np.ones(len(ids), bool) for ids in encoded.encoder_ids]
    rows = {name: getattr(encoded, name) for name in SEEN}
    seen = {name: stack_images(images) for name, images in rows.items() if images is not None}
    return Rows(encoded.encoder_ids, masks, encoded.decoder_ids, seen)


def rows_of_arrays(inputs):
    """`Rows` of a dict of arrays as the backbone takes them, padded on either side."""
    arrays = {name: to_numpy(value) for name, value in inputs.items()}
    mask = arrays["decoder_padding_mask"].astype(bool)
    return Rows(
        list(arrays["encoder_token_ids"]),
        list(arrays["encoder_padding_mask"].astype(bool)),
        [row[there] for row, there in zip(arrays["decoder_token_ids"], mask, strict=True)],
        {name: arrays[name] for name in SEEN if name in arrays},
    )


def row_of(rows, index):
    """One of the rows, alone."""
    *lists, seen = rows
    seen = {name: values[index : index + 1] for name, values in seen.items()}
    return Rows(*([values[index]] for values in lists), seen)


def bucket(length, smallest):
    """The length that `length` is rounded up to: so that few programs are compiled.

    Powers of two, and from 256 on the middle between two of them: 256, 384, 512, 768, ...
    Padding is at most 2 times the tokens, and 1.5 times where they are many.

    >>> [bucket(n, smallest=64) for n in (1, 65, 300, 400, 600)]
    [64, 128, 384, 512, 768]
    """
    size = smallest
    while size < length:
        size *= 2
    middle = size // 4 * 3
    return middle if size > 256 and length <= middle else size


def pad_rows(rows, new_tokens):
    """The arrays that `generate_step` takes.

    Encoder ids are padded at the right and prompts at the left, so that every row's first new
    token has the same slot.

    Args:
        rows: `Rows`.
        new_tokens: int. Tokens to generate for the row that gets most.
    """
    lengths = [len(ids) for ids in rows.encoder_ids]
    encoder_length = bucket(max(lengths), smallest=64)
    longest = max(len(prompt) for prompt in rows.prompts)
    prompt_length = 1 if longest == 1 else bucket(longest, smallest=16)
    inputs = {
        "encoder_token_ids": _stack(rows.encoder_ids, encoder_length),
        "encoder_padding_mask": _stack(rows.encoder_masks, encoder_length),
        "decoder_token_ids": _stack(rows.prompts, prompt_length, side="left"),
        "decoder_padding_mask": _stack([p * 0 + 1 for p in rows.prompts], prompt_length, "left"),
        # Its length is the room for new tokens; -1 is no token, so that it never looks like one.
        "new_token_ids": np.full((len(lengths), bucket(new_tokens, smallest=32)), -1, "int32"),
        "new_tokens": np.asarray(new_tokens, "int32"),
    }
    return {**inputs, **rows.seen}


def new_tokens_of_rows(token_ids, prompt_length, budgets, stop_token_ids):
    """Per row, the tokens generated: up to its budget, or to a stop token and with it."""
    generated = []
    for row, budget in zip(token_ids, budgets, strict=True):
        new = row[prompt_length : prompt_length + budget]
        new = new[new >= 0]
        stops = np.flatnonzero(np.isin(new, stop_token_ids or ()))
        generated.append(new[: stops[0] + 1] if stops.size else new)
    return generated


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
