"""Batches of rows that are in memory."""

import math

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.array_checks import check_weights
from keras_t5gemma2.preprocessing.containers import is_sequence, is_table, names_of
from keras_t5gemma2.preprocessing.rows import length_of_row
from keras_t5gemma2.preprocessing.sources import (
    is_stream,
)
from keras_t5gemma2.training.batches import Batches
from keras_t5gemma2.training.grouping import by_length, shuffled_by_length
from keras_t5gemma2.training.joining import joined
from keras_t5gemma2.training.preparation import with_each_target


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


def rows_in_memory(x, y, sample_weight, preparation):
    """What `InMemoryBatches` takes, of rows that have passed every check that reads no file."""
    rows, labels = preparation.parsed(x, y)
    preparation.check(rows)
    # A dialogue is a row for each answer in it.
    weights = _weights_of_rows(sample_weight, 1 + rows[-1].number)
    weights = None if weights is None else weights[[row.number for row in rows]]
    if preparation.targets == "each":  # here, so that batches are of one size
        rows, numbers = with_each_target(rows)
        weights = None if weights is None else weights[numbers]

    def take(indices):
        of_rows = None if labels is None else [labels[i] for i in indices]
        return [rows[i] for i in indices], of_rows, None if weights is None else weights[indices]

    return take, np.arange(len(rows)), [length_of_row(row) for row in rows]


class NumberedRows:
    """Rows of a source that are read when they are asked for: their images may not fit in memory.

    Args:
        source: anything with a length whose items are dicts of single rows, or (x, y).
        sample_weight: per row or per label, or `None`.
        preparation: `Preparation`.
    """

    def __init__(self, source, sample_weight, preparation):
        self.source, self.preparation = source, preparation
        self.weights = _weights_of_rows(sample_weight, len(source))
        if len(source) == 0:
            raise ValueError("A batch must have at least one row. Received: an empty data set")
        if is_table(source):
            preparation.columns.places(names_of(source))  # what is wrong with them shows at once

    def __call__(self, indices):
        items = [self.source[int(index)] for index in indices]
        rows, labels = self.preparation.parsed(items)
        numbers = np.asarray(indices)[[row.number for row in rows]]
        rows = [row._replace(number=int(i)) for row, i in zip(rows, numbers, strict=True)]
        return rows, labels, None if self.weights is None else self.weights[numbers]


def has_numbered_rows(x, columns):
    """Whether rows are better read one by one, when a step needs them."""
    if is_table(x):  # a data set of `datasets`, whose images are files; not a data frame
        has_rows = hasattr(x, "column_names") and len(x) > 0
        return has_rows and any(columns.renames.get(n, n) == "images" for n in x.column_names)
    return is_sequence(x) and not is_stream(x) and len(x) > 0 and isinstance(x[0], (dict, tuple))


def _weights_of_rows(sample_weight, count):
    weights = None if sample_weight is None else np.asarray(sample_weight)
    if weights is not None:
        check_weights(weights)
    if weights is not None and len(weights) != count:
        raise ValueError(
            "`sample_weight` must have as many rows as `x`. Received: sample_weight of shape "
            f"{weights.shape} and {count} rows"
        )
    return weights
