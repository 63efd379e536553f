"""Text and images from any source as the batches of arrays that `keras.Model.fit` takes."""

import contextlib
import warnings

import keras
import numpy as np

from keras_t5gemma2.compat.keras import DataAdapter
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.containers import is_sequence, is_table
from keras_t5gemma2.preprocessing.sources import (
    are_arrays,
    is_pair,
    is_stream,
)
from keras_t5gemma2.training.in_memory import (
    InMemoryBatches,
    NumberedRows,
    has_numbered_rows,
    rows_in_memory,
)
from keras_t5gemma2.training.preparation import rows_of_arrays
from keras_t5gemma2.training.streams import PyDatasetBatches, StreamBatches, check_no_batch_size


def batches_of(x, y, sample_weight, batch_size, shuffle, preparation, group_by_length=False):
    """The `Batches` of whatever holds the data.

    Everything is read and sliced here, not by Keras's own adapters or keras-hub's pipelines:
    rows of images of different sizes and numbers are no arrays, and one way serves every backend
    and needs neither TensorFlow nor grain.

    Args:
        x: rows in memory as `parse_rows` takes them; the arrays of `T5Gemma2Backbone` in memory;
            what has numbered rows, which are read when their batch is; a `keras.utils.PyDataset`
            of batches; or anything that is iterated (`tf.data`, grain, a torch `DataLoader`, a
            generator), over batches or over rows. A batch or a row is rows or arrays, alone or as
            a tuple with targets or labels, and weights.
        y: texts, the targets of rows in memory; labels of arrays in memory; or `None`.
        sample_weight: per row or per label, of what is in memory, else `None`.
        batch_size: int or `None`.
        shuffle: bool.
        preparation: `Preparation`.
        group_by_length: bool. Whether batches of rows in memory are of rows of similar length.
    """
    batch_size = checked(batch_size=batch_size)
    if isinstance(x, DataAdapter):
        return x  # `fit` calls `evaluate` with what it was given
    if y is None and (is_pair(x) or (isinstance(x, (tuple, list)) and x and are_arrays(x[0]))):
        x, y, sample_weight = _unpack_together(x, sample_weight)
    if are_arrays(x):
        x, y, sample_weight = preparation.checked(x, y, sample_weight)
        rows = rows_of_arrays(x, y, sample_weight)
        return InMemoryBatches(*rows, batch_size, shuffle, preparation)
    if y is None and has_numbered_rows(x, preparation.columns):
        take = NumberedRows(x, sample_weight, preparation)
        batches = InMemoryBatches(take, np.arange(len(x)), batch_size, shuffle, preparation)
        batches.lengths_differ = True
        return batches
    if not is_stream(x):
        _check_are_rows(x)
        *rows, lengths = rows_in_memory(x, y, sample_weight, preparation)
        batches = InMemoryBatches(*rows, batch_size, shuffle, preparation)
        batches.lengths_differ = True
        batches.lengths = lengths if group_by_length else None
        return batches
    given = {"y": y, "sample_weight": sample_weight}
    if given := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"A data set holds labels and weights itself. Received: {given}, and x of type "
            f"{type(x).__name__}. Let its elements be tuples (x, y, sample_weight)"
        )
    if isinstance(x, keras.utils.PyDataset):
        check_no_batch_size(batch_size, x)
        return PyDatasetBatches(x, shuffle, preparation)
    return StreamBatches(x, batch_size, preparation)


_NO_GRADIENTS_IN_VISION = r"Gradients do not exist for variables \[('vision/[^']*'(, )?)+\] "


@contextlib.contextmanager
def reading(*batches, steps=None, may_begin_late=False):
    """While Keras reads: errors of the data as they are, and no alarm where all is well.

    Args:
        *batches: `Batches` or `None`.
        steps: int or `None`. Of an epoch, where the user says so.
        may_begin_late: bool. Whether an epoch may be taken up in its middle.
    """
    batches = [b for b in batches if b is not None]
    ends_unannounced = steps is None and any(b.num_batches is None for b in batches)
    with warnings.catch_warnings():
        # Of a batch without images nothing in the vision part has a gradient.
        warnings.filterwarnings("ignore", message=_NO_GRADIENTS_IN_VISION)
        if ends_unannounced or may_begin_late:
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        try:
            yield
        except Exception:
            for b in batches:
                if b.error is not None:  # TensorFlow makes an error of its own of it
                    raise b.error from None
            raise


def _check_are_rows(x):
    if isinstance(x, (str, bytes, dict, list, tuple)) or hasattr(x, "shape"):
        return
    if not (is_table(x) or is_sequence(x)):
        raise TypeError(
            "`x` must be rows of text and images, a table, a PyDataset, or something to iterate "
            f"over. Received: {shown(x)} (type {type(x)})"
        )


def _unpack_together(x, sample_weight):
    """(x, y, sample_weight) of a tuple, such as the preprocessor gives."""
    x, y, given = keras.utils.unpack_x_y_sample_weight(tuple(x))
    return x, y, given if sample_weight is None else sample_weight


def split_off(batches, validation_split, validation_batch_size, preparation):
    if not isinstance(batches, InMemoryBatches):
        raise ValueError(
            "`validation_split` needs rows in memory. Received: validation_split="
            f"{validation_split} and a data set. Give `validation_data`"
        )
    return batches.split(validation_split, validation_batch_size, preparation)
