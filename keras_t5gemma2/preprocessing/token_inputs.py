"""What a tokenizer takes: strings and ids, checked."""

import numpy as np

from keras_t5gemma2.messages import cause, shown


def texts_of_inputs(inputs):
    return [text_of(value, f"`inputs[{i}]`") for i, value in enumerate(inputs)]


def text_of(value, name):
    """A `str` that can be written in UTF-8."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()
            return value
    except UnicodeError as error:
        raise ValueError(f"{name} must be valid Unicode. Received: {cause(error)}") from error
    raise TypeError(f"{name} must be a string. Received: {shown(value)} ({type(value).__name__})")


def strings_of_array(inputs):
    """One string, or a list of them."""
    array = np.asarray(inputs)
    if array.dtype.kind not in "OSU":
        raise TypeError(f"`inputs` must be strings. Received: {shown(inputs)}")
    if array.ndim > 1:
        raise ValueError(
            "`inputs` must be one string or a list of strings. "
            f"Received: an array of shape {array.shape}"
        )
    return array.tolist()


def is_row(value):
    return isinstance(value, (list, tuple)) or bool(getattr(value, "ndim", 0))


def decode(vocabulary, ids, name):
    check_ids(vocabulary, ids, name)
    return vocabulary.decode(np.atleast_1d(ids).tolist())


def check_ids(vocabulary, ids, name):
    if ids.ndim > 1:
        raise ValueError(f"{name} must be a row of ids. Received: shape={ids.shape}")
    if ids.size and ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers. Received: dtype={ids.dtype}")
    outside = ids[(ids < 0) | (ids >= len(vocabulary))]
    if outside.size:
        raise ValueError(
            f"{name} must be ids from 0 to {len(vocabulary) - 1}. Received: id {outside.flat[0]}"
        )
