"""From rows of ids and pixels to the arrays of a batch, padded."""

import numpy as np

from keras_t5gemma2.messages import short_errors
from keras_t5gemma2.preprocessing.packing import fit_width, pad_tokens, padded_length, stack_images
from keras_t5gemma2.preprocessing.read_image import to_numpy


def arrays_of_rows(encoded, lengths, caps, pad_token_id, empty, training):
    """Dict of the arrays of a batch, by the names that the backbone takes.

    Args:
        encoded: `EncodedRows`.
        lengths: pair of ints, what the encoder's and the decoder's rows are padded to; `None` for
            the longest row, rounded up.
        caps: pair of ints, which no row is longer than.
        pad_token_id: int.
        empty: dict of the shapes of images that are none, as `empty_images` gives it.
        training: bool. Whether the decoder's ids are targets, of which `labels` and
            `sample_weight` are made: float32 (B, T), 0 where a label is padding.
    """
    rows = encoded.encoder_ids, encoded.decoder_ids
    encoder, decoder = (
        padded_length(of_stack, cap) if length is None else length
        for of_stack, cap, length in zip(rows, caps, lengths, strict=True)
    )
    encoder_ids, encoder_mask = pad_tokens(encoded.encoder_ids, encoder, pad_token_id)
    ids, mask = pad_tokens(encoded.decoder_ids, decoder + training, pad_token_id)
    arrays = {
        "encoder_token_ids": encoder_ids,
        "encoder_padding_mask": encoder_mask,
        "decoder_token_ids": ids[:, :decoder],
        "decoder_padding_mask": mask[:, :decoder],
    }
    for name in ("images", "image_features"):
        if (of_rows := getattr(encoded, name)) is not None:
            arrays[name] = stack_images(of_rows)
        elif (shape := empty.get(name)) is not None:
            arrays[name] = np.zeros((len(ids), 0, *shape), "float32")
    if training:
        arrays["labels"] = ids[:, 1:]
        arrays["sample_weight"] = mask[:, 1:].astype("float32")
    return arrays


def empty_images(image_converter, tokens_per_image):
    """Dict of the shapes of one image, of both forms: a model with a vision tower takes both.

    Args:
        image_converter: `T5Gemma2ImageConverter`, or `None` for a model that sees none.
        tokens_per_image: int.
    """
    if image_converter is None:
        return {}
    # How wide the tower is, only the model knows.
    return {"images": (*image_converter.image_size, 3), "image_features": (tokens_per_image, 0)}


def output_shapes(axes, lengths, image_converter, empty, training):
    """Dict of the dtype and static shape of each array that a traced pipeline gives.

    Args:
        axes: what `static_axes` gives of its tensors.
        lengths: pair of ints; `None` where the longest row of a batch says how long it is.
        image_converter: as of `empty_images`.
        empty: what `empty_images` gives.
        training: bool, as of `arrays_of_rows`.
    """
    batch, images = axes
    encoder, decoder = (*batch, lengths[0]), (*batch, lengths[1])
    outputs = {
        "encoder_token_ids": ("int32", encoder),
        "encoder_padding_mask": ("bool", encoder),
        "decoder_token_ids": ("int32", decoder),
        "decoder_padding_mask": ("bool", decoder),
    }
    if image_converter is not None:
        images = None if image_converter.pan_and_scan and images != 0 else images
        outputs["images"] = ("float32", (*batch, images, *empty["images"]))
        outputs["image_features"] = ("float32", (*batch, 0, *empty["image_features"]))
    if training:
        outputs.update(labels=("int32", decoder), sample_weight=("float32", decoder))
    return outputs


def weights_of_labels(weights, sample_weight, is_single):
    """(B, T) float32 weights, times those that a user gave.

    Args:
        weights: (B, T) float32, 0 where a label is padding.
        sample_weight: (B,) or (B, labels) floats, or `None`; of a single row without the B.
        is_single: bool. Whether it is such a row.

    Raises:
        ValueError: there is not one for each row, nor one for each label.
    """
    if sample_weight is None:
        return weights
    with short_errors():
        given = to_numpy(sample_weight).astype("float32")
    of_rows = () if is_single else weights.shape[:1]
    of_labels = weights.shape[1:] if is_single else weights.shape
    if given.shape == of_rows:
        return weights * given.reshape(-1, 1)
    # Those of labels need not know what the batch is padded to, if they reach its longest row.
    longest = weights.sum(axis=1).max()
    if given.shape[:-1] != of_rows or given.ndim == 0 or given.shape[-1] < longest:
        raise ValueError(
            f"`sample_weight` must be one number per row, of shape {of_rows}, or one per label, of "
            f"shape {of_labels}. Received: sample_weight of shape {given.shape}"
        )
    return weights * fit_width(given.reshape(len(weights), -1), weights.shape[1])
