"""Text and images from any source as the batches of arrays that `keras.Model.fit` takes."""

import contextlib
import functools
import itertools
import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import sharding
from keras_t5gemma2.compat.keras import DataAdapter, PyDatasetAdapter
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing import traced
from keras_t5gemma2.preprocessing.containers import is_sequence, is_table, names_of
from keras_t5gemma2.preprocessing.rows import length_of_row, parse_rows
from keras_t5gemma2.preprocessing.sources import (
    are_arrays,
    is_pair,
    is_row,
    is_stream,
    naming_batch,
    unpack,
)
from keras_t5gemma2.tasks.array_checks import check_weights
from keras_t5gemma2.tasks.distillation import split_targets
from keras_t5gemma2.tasks.elements import join_elements, rows_of_arrays, with_each_target
from keras_t5gemma2.tasks.grouping import by_length, shuffled_by_length
from keras_t5gemma2.tasks.joining import joined, marked
from keras_t5gemma2.tasks.parts import part_of_batch


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
    if y is None and _has_numbered_rows(x, preparation.columns):
        take = NumberedRows(x, sample_weight, preparation.columns)
        batches = InMemoryBatches(take, np.arange(len(x)), batch_size, shuffle, preparation)
        batches.lengths_differ = True
        return batches
    if not is_stream(x):
        _check_are_rows(x)
        *rows, lengths = _rows_in_memory(x, y, sample_weight, preparation)
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
        _check_no_batch_size(batch_size, x)
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


class Batches(DataAdapter):
    """Prepared batches, in whichever way a backend's training loop asks for them.

    Attributes:
        epoch: int, which epoch the next one is.
        first_batch: int, the number of the batch that the next epoch begins with.
    """

    epoch = first_batch = 0
    error = None  # what went wrong while reading
    num_batches = None  # unknown
    batch_size = None
    lengths = None  # of all rows in memory, where batches are of similar ones
    can_be_read_ahead = True
    lengths_differ = True
    can_add_rows = True  # which the loss and the metrics must not see
    is_joined = False  # whether the outputs are logits for `joined`
    sizes = ()  # of these batches: their rows, how many were added, and their length

    def first(self):
        """A batch as all others are, for its structure."""
        raise NotImplementedError

    def __iter__(self):
        """The batches of an epoch."""
        raise NotImplementedError

    def get_numpy_iterator(self):
        iterator = itertools.islice(iter(self), self.first_batch, None)
        while True:
            try:
                batch = part_of_batch(next(iterator))
            except StopIteration:
                return
            except (Exception, KeyboardInterrupt) as error:
                self.error = error
                raise
            yield batch

    def get_jax_iterator(self):
        """Batches whose rows several devices can share: where some lack, they are added.

        The first is read at once. Else Keras would ask for it when it has taken the weights out of
        the model, and with an error they would be lost.
        """
        batches = self._handed_over(self._shared_batches())
        first = list(itertools.islice(batches, 1))
        return itertools.chain(first, batches)

    def _shared_batches(self):
        parts = sharding.row_parts()
        if parts == 1:
            yield from self._read_batches()
            return
        for number, (batch, size) in enumerate(self._read_batches()):
            rows, _, length = size
            if number == 0 and rows == 1 and sharding.shares_single_rows():
                parts = 1
            missing = -rows % parts
            yield self._with_rows(batch, rows, missing, parts), (rows, missing, length)

    def _read_batches(self):
        """Pairs of a batch and its place in `sizes`."""
        for batch in self.get_numpy_iterator():
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            ids = x["decoder_token_ids"]
            yield batch, (len(ids), 0, ids.shape[-1])

    def _handed_over(self, batches):
        """The batches as Keras gets them; where they are joined, their sizes are written down.

        At the end of an epoch Keras may begin another one, and take a batch or none of it.
        """
        sizes = []
        for batch, size in batches:
            if self.is_joined:
                sizes.append(size)
                self.sizes = max(self.sizes, sizes, key=len)
            yield marked(batch) if self.is_joined else batch

    def _with_rows(self, batch, rows, missing, parts):
        if missing and not self.can_add_rows:
            raise ValueError(
                f"The rows of a batch must be a multiple of {parts}, the devices that share them, "
                "where the loss or the metrics are your own, which would see rows that fill a "
                f"batch up. Received: a batch of {rows} rows. Choose `batch_size` to divide the "
                'rows, or compile with loss="auto" and weighted_metrics="auto"'
            )
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        if y is not None and weights is None:  # every batch has the same structure
            weights = np.ones(np.shape(split_targets(y)[0]), "float32")
        x, y, weights = sharding.with_rows((x, y, weights), rows + missing)
        if weights is not None:
            weights = np.concatenate([weights[:rows], np.zeros_like(weights[rows:])])
        return keras.utils.pack_x_y_sample_weight(x, y, weights)

    def joined(self, logits):
        """What `predict` gives, of the logits of all tokens of an epoch without `shuffle`."""
        return joined(logits, self.sizes)

    def get_torch_dataloader(self):
        # No `DataLoader`: it draws from the generator that dropout draws from, whenever it begins,
        # and a run that is taken up in the middle of an epoch begins once less.
        to_tensors = functools.partial(keras.tree.map_structure, ops.convert_to_tensor)
        return map(to_tensors, self._handed_over(self._read_batches()))

    def get_tf_dataset(self):
        def batches():
            return map(_without_bools, self._handed_over(self._read_batches()))

        example = self.first()
        example = _without_bools(marked(example) if self.is_joined else example)
        return traced.dataset_of(batches, example, self.can_be_read_ahead, self.lengths_differ)


def _without_bools(batch):
    """Masks as integers: under a strategy Keras adds up the batches of several replicas."""
    return keras.tree.map_structure(
        lambda array: array.astype("int32") if array.dtype == bool else array, batch
    )


class InMemoryBatches(Batches):
    """Rows in memory, in a new order for each epoch.

    Args:
        take: function of indices to (x, y, sample_weight) of these rows.
        indices: (rows,) integers.
        batch_size: int, or `None` for 32.
        shuffle: bool.
        preparation: `Preparation`.
    """

    lengths_differ = False  # of arrays; rows have those of the longest one of a batch

    def __init__(self, take, indices, batch_size, shuffle, preparation):
        self.take, self.indices, self.shuffle = take, indices, shuffle
        # The order of an epoch hangs on this and on its number alone: not on what else draws
        # numbers, nor on when a backend asks for the first batch.
        self.seed = int(np.random.randint(2**31)) if shuffle else None
        self.batch_size = 32 if batch_size is None else batch_size
        self.preparation = preparation

    @property
    def num_batches(self):
        return math.ceil(len(self.indices) / self.batch_size)

    def first(self):
        return self._prepare(self.indices[: self.batch_size])

    def __iter__(self):
        order = self._order()
        for start in range(0, len(order), self.batch_size):
            yield self._prepare(order[start : start + self.batch_size])

    def joined(self, logits):
        return joined(logits, self.sizes, None if self.lengths is None else self._order())

    def _order(self):
        if not self.shuffle:
            return self.indices if self.lengths is None else by_length(self.indices, self.lengths)
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.lengths is None:
            return rng.permutation(self.indices)
        return shuffled_by_length(self.indices, self.lengths, self.batch_size, rng)

    def _prepare(self, indices):
        place = self.seed or 0, self.epoch
        return self.preparation(*self.take(indices), indices=indices, place=place)

    def split(self, validation_split, validation_batch_size, preparation):
        """The same without its last rows, and the batches of those."""
        count = len(self.indices)
        where = math.floor(count * (1 - validation_split))
        if not 0 < where < count:
            raise ValueError(
                "`validation_split` must leave rows for training and for validation. Received: "
                f"validation_split={shown(validation_split)} of {count} rows"
            )
        first, last = self.indices[:where], self.indices[where:]
        size = self.batch_size
        parts = (
            InMemoryBatches(self.take, first, size, self.shuffle, self.preparation),
            InMemoryBatches(self.take, last, validation_batch_size or size, False, preparation),
        )
        for part in parts:
            part.lengths_differ, part.lengths = self.lengths_differ, self.lengths
        return parts


_END = object()


class StreamBatches(Batches):
    """The batches of anything that is iterated; single rows are put together to batches.

    Keras may build with a first batch, after which it calls `on_epoch_end` and begins anew: what
    can be read once is kept until then, to be read again.

    Args:
        stream: an iterable, or an iterator that can be read once.
        batch_size: int, rows of a batch where the elements are rows, or `None` for 32.
        preparation: `Preparation`.
    """

    def __init__(self, stream, batch_size, preparation):
        self.stream, self.preparation = stream, preparation
        iterator = iter(stream)
        self.is_read_once = iterator is stream
        self.can_be_read_ahead = not self.is_read_once
        self.example = next(iterator, _END)
        if self.example is _END:
            raise ValueError(f"The data must not be empty. Received: a {type(stream).__name__}")
        # Of what can be read once: what is to be read again, and what was read since the start.
        self.waiting, self.seen = [self.example], []
        self.is_rewound = not self.is_read_once
        self.is_of_rows = is_row(unpack(self.example)[0], preparation.columns)
        if not self.is_of_rows:
            _check_no_batch_size(batch_size, stream)
        self.batch_size = (batch_size or 32) if self.is_of_rows else None

    @property
    def num_batches(self):
        try:
            count = len(self.stream)
        except (TypeError, OverflowError):  # not known, or without an end
            return None
        if count >= 2**62:  # how grain counts what is repeated without an end
            return None
        return math.ceil(count / self.batch_size) if self.is_of_rows else count

    def first(self):
        return self._prepare(0, [self.example] if self.is_of_rows else self.example)

    def __iter__(self):
        elements = self._read_once() if self.is_read_once else iter(self.stream)
        number = -1
        for number, batch in enumerate(self._whole_batches(elements)):
            yield self._prepare(number, batch)
        if number < 0:
            raise ValueError(
                f"A {type(self.stream).__name__} can be read once, and there is nothing left of it "
                "for another epoch. Give `steps_per_epoch`, or something to iterate over anew"
            )

    def on_epoch_end(self):
        if not self.is_rewound:
            self.is_rewound = True
            self.waiting, self.seen = [*self.seen, *self.waiting], []

    def _read_once(self):
        while True:
            element = self.waiting.pop(0) if self.waiting else next(self.stream, _END)
            if element is _END:
                return
            if not self.is_rewound:
                self.seen.append(element)
            yield element

    def _whole_batches(self, elements):
        if not self.is_of_rows:
            yield from elements
            return
        rows = []
        for element in elements:
            rows.append(element)
            if len(rows) == self.batch_size:
                yield rows
                rows = []
        if rows:
            yield rows

    def _prepare(self, number, batch):
        with naming_batch(number):
            parts = join_elements(batch) if self.is_of_rows else unpack(batch)
            return self.preparation(*parts, place=(self.epoch, number))


class PyDatasetBatches(Batches):
    """The batches of a `keras.utils.PyDataset`, prepared by its own workers."""

    def __init__(self, dataset, shuffle, preparation):
        self.dataset = _PreparedDataset(dataset, preparation)
        self.adapter = PyDatasetAdapter(self.dataset, shuffle=shuffle)
        self.on_epoch_begin, self.on_epoch_end = (
            self.adapter.on_epoch_begin,
            self.adapter.on_epoch_end,
        )

    @property
    def epoch(self):
        return self.dataset.epoch

    @epoch.setter
    def epoch(self, value):
        self.dataset.epoch = value

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def first(self):
        return self.dataset[0]

    def __iter__(self):
        return self.adapter.get_numpy_iterator()


class _PreparedDataset(keras.utils.PyDataset):
    def __init__(self, dataset, preparation):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset, self.preparation = dataset, preparation
        self.epoch = 0

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __getitem__(self, index):
        with naming_batch(index):
            return self.preparation(*unpack(self.dataset[index]), place=(self.epoch, index))

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


def _rows_in_memory(x, y, sample_weight, preparation):
    """What `InMemoryBatches` takes, of rows that have passed every check that reads no file."""
    rows, _ = parse_rows(x, y, preparation.columns, several_targets=True)
    preparation.check(rows)
    weights = _weights_of_rows(sample_weight, rows)
    if preparation.targets == "each":  # here, so that batches are of one size
        rows, numbers = with_each_target(rows)
        weights = None if weights is None else weights[numbers]

    def take(indices):
        return [rows[i] for i in indices], None, None if weights is None else weights[indices]

    return take, np.arange(len(rows)), [length_of_row(row) for row in rows]


class NumberedRows:
    """Rows of a source that are read when they are asked for: their images may not fit in memory.

    Args:
        source: anything with a length whose items are dicts of single rows, or (x, y).
        sample_weight: per row or per label, or `None`.
        columns: `Columns`.
    """

    def __init__(self, source, sample_weight, columns):
        self.source, self.columns = source, columns
        self.weights = _weights_of_rows(sample_weight, source)
        if len(source) == 0:
            raise ValueError("A batch must have at least one row. Received: an empty data set")
        if is_table(source):
            columns.places(names_of(source))  # what is wrong with them shows at once

    def __call__(self, indices):
        items = [self.source[int(index)] for index in indices]
        rows, _ = parse_rows(items, None, self.columns, several_targets=True)
        rows = [row._replace(number=int(i)) for row, i in zip(rows, indices, strict=True)]
        return rows, None, None if self.weights is None else self.weights[indices]


def _has_numbered_rows(x, columns):
    """Whether rows are better read one by one, when a step needs them."""
    if is_table(x):  # a data set of `datasets`, whose images are files; not a data frame
        has_rows = hasattr(x, "column_names") and len(x) > 0
        return has_rows and any(columns.renames.get(n, n) == "images" for n in x.column_names)
    return is_sequence(x) and not is_stream(x) and len(x) > 0 and isinstance(x[0], (dict, tuple))


def _weights_of_rows(sample_weight, rows):
    weights = None if sample_weight is None else np.asarray(sample_weight)
    if weights is not None:
        check_weights(weights)
    if weights is not None and len(weights) != len(rows):
        raise ValueError(
            "`sample_weight` must have as many rows as `x`. Received: sample_weight of shape "
            f"{weights.shape} and {len(rows)} rows"
        )
    return weights


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


def _check_no_batch_size(batch_size, x):
    if batch_size is not None:
        raise ValueError(
            "`batch_size` must be left out where the data comes in batches. Received: batch_size="
            f"{batch_size}, and x of type {type(x).__name__}"
        )
