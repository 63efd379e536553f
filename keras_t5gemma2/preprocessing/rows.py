"""What users pass as text and images, brought into one form: a list of rows."""

from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.preprocessing.read_image import to_numpy

_KEYS = ("encoder_text", "images", "decoder_text")


class Row(NamedTuple):
    """One example as given: nothing is tokenized and no image is read yet."""

    encoder_text: str | None
    images: list[Any]
    decoder_text: str | None
    number: int = 0  # in the input, for errors


def length_of_row(row):
    """What rows are sorted by, so that those of similar length come together."""
    return len(row.images), len(row.encoder_text or "") + len(row.decoder_text or "")


def parse_rows(x):
    """The rows of an input, and whether it was a single row without a batch axis.

    Args:
        x: a list of `Row`, which comes back as it is; a string; a list, tuple or array of
            strings; a list of dicts, one per row; or a dict of

            - `encoder_text`: a string or a list of strings;
            - `images`, for one string: one image or a list of images; for a list of strings: a
              list with `None`, one image or a list of images per row, or an array of shape
              (batch, height, width, channels) or (batch, images, height, width, channels).
              `ImageFeatures` may stand for an image;
            - `decoder_text`: as `encoder_text`.

            Every key may be missing or `None`. Images alone are one row, unless they are a list
            of lists (or of `None`) or an array with a batch and an images axis.

    Returns:
        A list of `Row` and a bool.

    Raises:
        ValueError: for an unknown key, keys with different numbers of rows, or no rows at all.
        TypeError: if a text is no string.

    Example:

    >>> parse_rows({"encoder_text": ["a", "b"], "images": [None, "bee.png"]})[0]
    [Row(encoder_text='a', images=[], decoder_text=None, number=0), \
Row(encoder_text='b', images=['bee.png'], decoder_text=None, number=1)]
    """
    if isinstance(x, list) and x and isinstance(x[0], Row):
        return x, False
    x = join_rows(x) if are_row_dicts(x) else input_dict(x)
    encoder_text = _parse_text(x, "encoder_text")
    decoder_text = _parse_text(x, "decoder_text")
    images = _as_list_or_array(x.get("images"))
    texts = [text for text in (encoder_text, decoder_text) if text is not None]
    if any(isinstance(text, list) for text in texts) or (not texts and _are_of_rows(images)):
        return _parse_batch(encoder_text, images, decoder_text), False
    return [Row(encoder_text, _images_of_row(images, row=0), decoder_text)], True


def are_row_dicts(x):
    """Whether `x` is a list of dicts, one per row."""
    return isinstance(x, list) and len(x) > 0 and all(isinstance(row, dict) for row in x)


def join_rows(rows):
    """A dict of lists from a list of dicts; a key may be missing from some of them."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return input_dict({key: [row.get(key) for row in rows] for key in keys})


def input_dict(x):
    """`x` as a dict of known keys, which is what bare text stands for."""
    if not isinstance(x, dict):
        return {"encoder_text": x}
    unknown = [key for key in x if key not in _KEYS]
    if unknown:
        raise ValueError(f"The keys of an input must be among {_KEYS}. Received: {unknown}")
    if all(value is None for value in x.values()):
        raise ValueError(f"An input must hold one of {_KEYS}. Received: {x}")
    return x


def _parse_batch(encoder_text, images, decoder_text):
    count = _row_count(encoder_text, images, decoder_text)
    if count == 0:
        raise ValueError("A batch must have at least one row. Received: an empty batch")
    images = [None] * count if images is None else images
    return [
        Row(
            encoder_text and encoder_text[row],
            _images_of_row(_as_list_or_array(images[row]), row),
            decoder_text and decoder_text[row],
            row,
        )
        for row in range(count)
    ]


def _row_count(encoder_text, images, decoder_text):
    values = dict(zip(_KEYS, (encoder_text, images, decoder_text), strict=True))
    counts = {key: _batch_size(value) for key, value in values.items() if value is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "All values of a batch must have as many rows. Received, in rows, `None` for a value "
            f"that is not one per row: {counts}. Give `images` as a list with `None`, an image or "
            "a list of images for each row"
        )
    return next(iter(counts.values()))


def _batch_size(value):
    return len(value) if isinstance(value, list) or _rank(value) in (4, 5) else None


def _parse_text(x, key):
    """A string, a list of strings, or `None`."""
    text = x.get(key)
    text = _strings(text)
    if isinstance(text, (list, tuple)):
        text = [_strings(value) for value in text]
        return [_check_text(key, value, row) for row, value in enumerate(text)]
    return None if text is None else _check_text(key, text, row=0)


def _strings(text):
    """Python's strings for an array or tensor of them."""
    return np.asarray(text).tolist() if hasattr(text, "shape") else text


def _check_text(key, text, row):
    if isinstance(text, str):
        return str(text)
    if not isinstance(text, bytes):
        raise TypeError(
            f"`{key}` must be a string or a list of strings. Received in row {row}: {text!r} "
            f"(type {type(text)})"
        )
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{key}` must be UTF-8 where it is bytes. Received in row {row}: {error}"
        ) from error


def _are_of_rows(images):
    """Whether images without a text are those of several rows."""
    if isinstance(images, list):
        return all(image is None or isinstance(image, (list, tuple)) for image in images)
    return _rank(images) == 5


def _images_of_row(images, row):
    if images is None:
        return []
    if isinstance(images, list):
        images = [_as_list_or_array(image) for image in images]
        for image in images:
            if image is None or isinstance(image, list):
                raise ValueError(
                    "The images of one row must be one image or a flat list of images. "
                    f"Received in row {row}: a list that holds {image!r}"
                )
        return images
    if _rank(images) == 5:
        raise ValueError(
            "The images of one row must be an array of at most 4 dimensions, (images, height, "
            f"width, channels). Received in row {row}: an array of shape {images.shape}"
        )
    return list(images) if _rank(images) == 4 else [images]


def _as_list_or_array(images):
    """Lists for tuples and for arrays of paths or objects, numpy for tensors, else unchanged."""
    if isinstance(images, (list, tuple)):
        return list(images)
    if not hasattr(images, "shape"):
        return images
    images = to_numpy(images)
    if images.dtype.kind not in "OSU":
        return images
    # TensorFlow hands over the paths in its string tensors as bytes.
    return _decode_paths(images.tolist())


def _decode_paths(values):
    if isinstance(values, list):
        return [_decode_paths(value) for value in values]
    return values.decode("utf-8") if isinstance(values, bytes) else values


def _rank(images):
    return getattr(images, "ndim", None)
