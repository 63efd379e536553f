"""Data sets that are iterated: what their elements are, and all rows of one."""

import contextlib

import keras
import numpy as np

from keras_t5gemma2.messages import cause
from keras_t5gemma2.preprocessing.columns import DIALOGUE_KEYS, Columns
from keras_t5gemma2.preprocessing.containers import is_sequence, is_table
from keras_t5gemma2.preprocessing.cuts import batch_number
from keras_t5gemma2.preprocessing.dialogues import is_dialogue
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import are_row_dicts, parse_rows


def is_stream(x):
    """Whether `x` is a data set to iterate over, not rows in memory.

    Those are a `keras.utils.PyDataset`, `tf.data`, grain, a torch `DataLoader`, an
    `IterableDataset` and a generator: what has no numbered items, or items that are no texts.
    """
    if isinstance(x, keras.utils.PyDataset):
        return True
    if isinstance(x, (str, bytes, dict, list, tuple)) or hasattr(x, "shape") or is_table(x):
        return False
    if is_sequence(x):
        return hasattr(x, "__iter__") and not _is_in_memory(x)
    return hasattr(x, "__iter__")


def elements_of(stream):
    """The elements of one epoch.

    Raises:
        ValueError: the data set has no end.
    """
    if isinstance(stream, keras.utils.PyDataset):
        if stream.num_batches is None:
            raise _endless(stream)
        return (stream[number] for number in range(stream.num_batches))
    try:
        count = len(stream)
    except TypeError as error:
        if "infinite" in str(error):  # how `tf.data` says it
            raise _endless(stream) from None
    except OverflowError:
        raise _endless(stream) from None
    else:
        if count >= 2**62:  # how grain counts what is repeated without an end
            raise _endless(stream)
    return iter(stream)


def are_arrays(x):
    """Whether `x` is what the preprocessor makes of rows, not rows."""
    return isinstance(x, dict) and ("decoder_token_ids" in x or "encoder_token_ids" in x)


def is_pair(x):
    """Whether `x` is a tuple (x, y) or (x, y, sample_weight) of several rows, not one of texts."""
    return isinstance(x, tuple) and len(x) in (2, 3) and not any(map(_is_one_text, x))


def is_row(x, columns=None):
    """Whether `x` is a single row without a batch axis.

    Args:
        x: a text, or a dict of a row or a batch.
        columns: `Columns`, which may rename those of a dict, or `None`.
    """
    if are_arrays(x):
        ids = x["decoder_token_ids"] if "decoder_token_ids" in x else x["encoder_token_ids"]
        return np.ndim(ids) == 1
    if not isinstance(x, dict):
        return _is_one_text(x)
    renames = {} if columns is None else columns.renames
    keys = "encoder_text", "decoder_text", *DIALOGUE_KEYS
    texts = [x[name] for key in keys for name in x if renames.get(name, name) == key]
    text = next((text for text in texts if text is not None), None)
    return _is_one_text(text) or is_dialogue(text)


def unpack(element):
    """(x, y, sample_weight) of a batch or of a row: a tuple is (x, y), a list is a batch."""
    if isinstance(element, list):
        if are_row_dicts(element) and is_row(element[0]):
            return element, None, None
        if all(_is_one_text(text) for text in element):
            return element, None, None
    return keras.utils.unpack_x_y_sample_weight(element)


def read_rows(x, columns=None, several_targets=False, reads_y=False, answers=False):
    """All rows of any source, and whether it was a single row without a batch axis.

    Args:
        x: what `parse_rows` takes, such a thing as a tuple (x, y), or a data set of such batches
            or rows, which is read to its end.
        columns: `Columns` or `None`.
        several_targets: as `parse_rows` has it.
        reads_y: as `parse_rows` has it.
        answers: as `parse_rows` has it.

    Raises:
        ValueError, TypeError: as `parse_rows`; for a batch of a data set with its number.
    """
    columns = Columns() if columns is None else columns

    def rows_of(x, y):
        return parse_rows(x, y, columns, several_targets, reads_y, answers)

    return joined_rows(x, rows_of)


def joined_rows(x, rows_of):
    """As `read_rows`, where a function of x and y of a batch gives its rows."""
    if is_pair(x):
        return rows_of(*unpack(x)[:2])
    if not is_stream(x):
        return rows_of(x, None)
    rows = []
    for number, element in enumerate(elements_of(x)):
        with naming_batch(number):
            found, _ = rows_of(*unpack(element)[:2])
        rows += [row._replace(number=len(rows) + row.number) for row in found]
    if not rows:
        raise ValueError("A batch must have at least one row. Received: an empty data set")
    return rows, False


def read_arrays(x):
    """The arrays of all batches of any source, joined."""
    if not is_stream(x):
        return x
    batches = []
    for element in elements_of(x):
        arrays, _, _ = unpack(element)
        if not are_arrays(arrays):
            return arrays  # whoever reads them says what they must be
        arrays = {name: to_numpy(value) for name, value in arrays.items()}
        batches.append(arrays if not is_row(arrays) else {n: a[None] for n, a in arrays.items()})
    if not batches:
        raise ValueError("A batch must have at least one row. Received: an empty data set")
    return {name: _joined([arrays[name] for arrays in batches]) for name in batches[0]}


@contextlib.contextmanager
def naming_batch(number):
    """Inside, errors about a batch say which one it is."""
    token = batch_number.set(number)
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"In batch {number}: {cause(error, 1500)}") from error
    finally:
        batch_number.reset(token)


def _is_one_text(x):
    return isinstance(x, (str, bytes)) or getattr(x, "shape", None) == ()


def _is_in_memory(sequence):
    """Whether the items of a sequence that can be iterated, too, are texts."""
    return len(sequence) == 0 or isinstance(sequence[0], (str, bytes, list, type(None)))


def _joined(arrays):
    """Arrays one after another; shorter ones are filled up with zeros, which are padding."""
    if arrays[0].ndim == 1:
        return np.concatenate(arrays)
    most = max(array.shape[1] for array in arrays)
    padding = [[(0, 0), (0, most - a.shape[1]), *[(0, 0)] * (a.ndim - 2)] for a in arrays]
    return np.concatenate([np.pad(a, pad) for a, pad in zip(arrays, padding, strict=True)])


def _endless(stream):
    return ValueError(
        "The data set must have an end: all of it is read. Received: an endless "
        f"{type(stream).__name__}. Take a part of it, such as `data.take(10)`"
    )
