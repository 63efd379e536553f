"""Batches of data sets that are read as they come."""

import math

import keras

from keras_t5gemma2.compat.keras import PyDatasetAdapter
from keras_t5gemma2.preprocessing.sources import (
    is_row,
    naming_batch,
    unpack,
)
from keras_t5gemma2.training.batches import Batches
from keras_t5gemma2.training.preparation import join_elements

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
            check_no_batch_size(batch_size, stream)
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


def check_no_batch_size(batch_size, x):
    if batch_size is not None:
        raise ValueError(
            "`batch_size` must be left out where the data comes in batches. Received: batch_size="
            f"{batch_size}, and x of type {type(x).__name__}"
        )
