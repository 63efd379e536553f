"""What holds several values, of any library, as Python's lists or numpy's arrays.

No library is imported for it: each is known by the methods of its objects.
"""

import collections.abc
import itertools

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.image_files import is_file
from keras_t5gemma2.preprocessing.read_image import to_numpy

_ONE_VALUE = (str, bytes, bytearray, memoryview, dict, list, tuple)


def is_sequence(x):
    """Whether `x` has a length and numbered items, and is neither a list nor an array."""
    if isinstance(x, _ONE_VALUE) or hasattr(x, "shape"):
        return False
    if isinstance(x, collections.abc.Sequence):
        return True
    return hasattr(x, "__len__") and hasattr(x, "__getitem__")


def items_of(sequence):
    """A list of the items of what `is_sequence`."""
    if hasattr(sequence, "to_pylist"):
        return sequence.to_pylist()
    return [sequence[number] for number in range(len(sequence))]


def is_table(x):
    """Whether `x` has columns by name: a data frame, an Arrow table or a data set of `datasets`."""
    if isinstance(x, dict):
        return False
    if hasattr(x, "columns") and hasattr(x, "to_dict"):
        return True
    return hasattr(x, "column_names") and hasattr(x, "__getitem__") and hasattr(x, "__len__")


def names_of(table):
    """The names of the columns of what `is_table`."""
    return list(table.column_names if hasattr(table, "column_names") else table.columns)


def texts_of(value, name):
    """Python's strings, bytes or lists of them, of any list, array or tensor of strings.

    Args:
        value: a string or bytes; or what holds several, also of several dimensions.
        name: string, for errors.

    Raises:
        TypeError: `value` is a sparse tensor.
    """
    _check_is_dense(value, name)
    if is_ragged(value):
        return value.to_list()
    if hasattr(value, "shape"):
        return np.asanyarray(value).tolist()
    if is_sequence(value):
        return items_of(value)
    return value


def images_of(value):
    """A list of what is a list, tuple, ragged tensor or column; an array of a tensor of numbers.

    Bytes in an array or tensor of strings are a path, as TensorFlow has it, if they are printable
    text, and the data of an image otherwise.

    Raises:
        TypeError: `value` is a sparse tensor.
        ValueError: the images of a ragged tensor are ragged themselves.
    """
    if is_file(value) and not isinstance(value, np.generic):
        return value
    _check_is_dense(value, "images")
    if isinstance(value, (list, tuple)):
        return list(value)
    if is_ragged(value):
        return _images_of_ragged(value)
    if getattr(value, "is_nested", False):  # torch's ragged tensor
        return [to_numpy(item) for item in value.unbind()]
    if is_sequence(value):
        return items_of(value)
    if not hasattr(value, "shape"):
        return value
    value = to_numpy(value)
    return _with_paths(value.tolist()) if value.dtype.kind in "OSU" else value


def is_ragged(value):
    """Whether `value` is a ragged tensor of TensorFlow, or its value in numpy."""
    return hasattr(value, "nested_row_splits") and hasattr(value, "flat_values")


def is_missing(value):
    """Whether `value` stands for nothing, as numpy, pandas and others have it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(value != value)


def _check_is_dense(value, name):
    is_sparse = hasattr(value, "dense_shape") or (
        hasattr(value, "todense") or getattr(value, "is_sparse", False) is True
    )
    if is_sparse or getattr(value, "is_sparse_csr", False) is True:
        raise TypeError(
            f"`{name}` must be a list, an array, or a dense or ragged tensor. Received: a "
            f"{type(value).__name__}. Make it dense first"
        )


def _images_of_ragged(value):
    """Per row a list of images, or one image: numpy arrays, or paths. One array of one image."""
    flat = np.asarray(value.flat_values)
    splits = [np.asarray(s) for s in value.nested_row_splits]
    if flat.dtype.kind in "OSU":
        return _with_paths(value.to_list())
    rank = len(splits) + flat.ndim
    items = flat
    for of_level in reversed(splits):
        items = _split(items, of_level)
    if isinstance(items, np.ndarray) and rank == 3 and items.shape[2] in (1, 3, 4):
        return items
    if rank == 5:
        return [[_image(image) for image in of_row] for of_row in items]
    return [_image(image) for image in items]


def _split(items, splits):
    lengths = np.diff(splits)
    is_even = len(lengths) and lengths[0] and (lengths == lengths[0]).all()
    if isinstance(items, np.ndarray) and is_even:
        return items.reshape(len(lengths), lengths[0], *items.shape[1:])
    return [items[start:end] for start, end in itertools.pairwise(splits)]


def _with_paths(values):
    """Strings for the bytes that TensorFlow has in its tensors of paths."""
    if isinstance(values, list):
        return [_with_paths(value) for value in values]
    if not isinstance(values, bytes):
        return values
    try:
        text = values.decode("utf-8")
    except UnicodeDecodeError:
        return values
    return text if text.isprintable() else values


def _image(rows):
    if len(rows) == 0:
        return []
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(
            "Each image of a ragged tensor must have rows of one length, so that its shape is "
            "(rows, height, width, channels) or (rows, images, height, width, channels). "
            f"Received: an image of {len(rows)} rows, the first of which is {shown(rows[0])}"
        ) from error
