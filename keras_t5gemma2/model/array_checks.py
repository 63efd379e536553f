"""Checks of what a model is called with, before a step reads it.

What is out of range raises on no backend alike: JAX and TensorFlow read another row of the table.
"""

import numpy as np

from keras_t5gemma2.messages import shown

IGNORED = -100  # the label of a token without a loss, as elsewhere
SIDES = ("encoder", "decoder")


def check_inputs(x, config, sides=SIDES):
    """Raises a `ValueError` about arrays that the model cannot take.

    Args:
        x: dict of numpy arrays, as `T5Gemma2Backbone` lists them.
        config: `BackboneConfig`.
        sides: of "encoder" and "decoder", those whose arrays are read.
    """
    names = [f"{side}_{what}" for side in sides for what in ("token_ids", "padding_mask")]
    if missing := [name for name in names if name not in x]:
        raise ValueError(
            f"The arrays must hold {', '.join(f'`{name}`' for name in names)}. Received: "
            f"{sorted(x)}, without {missing}"
        )
    for side in sides:
        _check_ids(f"{side}_token_ids", x[f"{side}_token_ids"], config.vocabulary_size)
    for side in sides:
        _check_mask(f"{side}_padding_mask", x[f"{side}_padding_mask"], x[f"{side}_token_ids"])
    rows = {name: len(x[name]) for name in names}
    if len(set(rows.values())) > 1:
        raise ValueError(f"All arrays must have as many rows. Received, in rows: {rows}")
    if "encoder" in sides:
        _check_images(x, config, len(x[names[0]]))


def image_shapes(vision):
    """The shape of one image in each of the two forms that it may have; `{}` for `None`."""
    if vision is None:
        return {}
    return {
        "images": (vision.image_size, vision.image_size, 3),
        "image_features": (vision.tokens_per_image, vision.hidden_dim),
    }


def check_image_features(vision, features):
    """Raises a `ValueError` if these cannot be features of this vision tower."""
    expected = image_shapes(vision)["image_features"]
    rank, (count, *shape) = len(features.shape), tuple(features.shape)[1:]
    fits = [size in (None, known) for size, known in zip(shape, expected, strict=False)]
    if rank != 4 or (count != 0 and not all(fits)):
        raise ValueError(
            "`image_features` must be what this model's vision tower gives, of shape (batch, "
            f"images, {expected[0]}, {expected[1]}). Received: shape {tuple(features.shape)}. "
            "Compute them with this model's `precompute`"
        )


def check_labels(labels, ids, config):
    """Raises a `ValueError` about labels that are no token ids and not ignored either.

    Args:
        labels: numpy array, which must have the shape of the decoder's ids.
        ids: numpy array, the decoder's ids.
        config: `BackboneConfig`.
    """
    if labels.shape != ids.shape:
        raise ValueError(
            "The labels must have the shape of `decoder_token_ids`, "
            f"{ids.shape}. Received: {shown(labels)}"
        )
    _check_ids("labels", labels, config.vocabulary_size, ignored=IGNORED)


def check_weights(weights):
    """Raises a `ValueError` about sample weights that are not finite or negative."""
    _check_kind("sample_weight", weights, "biuf", "numbers")
    if not (is_good := np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"`sample_weight` must be finite and at least 0. Received: {_first(weights, ~is_good)}"
        )


def _check_ids(name, ids, vocabulary_size, ignored=None):
    _check_kind(name, ids, "iu", "integers")
    if ids.ndim != 2:
        raise ValueError(f"`{name}` must be of shape (rows, tokens). Received: {shown(ids)}")
    if not ids.size or (ids.min() >= 0 and ids.max() < vocabulary_size):
        return
    is_bad = (ids < 0) | (ids >= vocabulary_size)
    if ignored is not None:
        is_bad &= ids != ignored
    if is_bad.any():
        also = "" if ignored is None else f", or {ignored} where there is no loss"
        raise ValueError(
            f"`{name}` must be from 0 to {vocabulary_size - 1}, the last id of this model's "
            f"vocabulary{also}. Received: {_first(ids, is_bad)}. Were they made for another model?"
        )


def _check_mask(name, mask, ids):
    _check_kind(name, mask, "biuf", "0 and 1")
    if mask.shape != ids.shape:
        raise ValueError(
            f"`{name}` must have the shape of the ids, {ids.shape}. Received: {shown(mask)}"
        )
    if mask.dtype != bool and (is_bad := (mask != 0) & (mask != 1)).any():
        raise ValueError(
            f"`{name}` must hold 1 where there is a token and 0 where there is padding. Received: "
            f"{_first(mask, is_bad)}"
        )


def _check_images(x, config, rows):
    for name, shape in image_shapes(config.vision).items():
        if name not in x:
            continue
        if x[name].ndim < 2 or len(x[name]) != rows:
            raise ValueError(
                f"`{name}` must have as many rows as there are ids, {rows}. Received: "
                f"{shown(x[name])}"
            )
        if name == "image_features":
            check_image_features(config.vision, x[name])
        elif x[name].shape[1] and x[name].shape[2:] != shape:
            raise ValueError(
                f"`images` must be of shape (rows, images, {', '.join(map(str, shape))}). "
                f"Received: {shown(x[name])}"
            )


def _check_kind(name, array, kinds, what):
    if array.dtype.kind not in kinds:
        raise ValueError(f"`{name}` must hold {what}. Received: {shown(array)}")


def _first(array, where):
    """The first value at which `where` is true, and its place."""
    row, *token = np.argwhere(where)[0].tolist()
    place = f"row {row}, token {token[0]}" if token else f"row {row}"
    return f"{array[(row, *token)]} in {place}"
