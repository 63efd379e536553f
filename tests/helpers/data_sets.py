"""Two rows, and what people bring them in: stand-ins with the protocols of other libraries."""

import collections.abc

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS

TEXTS, TARGETS = SMALL_ROWS["encoder_text"], SMALL_ROWS["decoder_text"]
PAIRS = list(zip(TEXTS, TARGETS, strict=True))
ROW_DICTS = [{"encoder_text": text, "decoder_text": target} for text, target in PAIRS]
SEVERAL = {"encoder_text": TEXTS, "decoder_text": [["a dog", "the cat", "yes"], "a house"]}


class Column(collections.abc.Sequence):
    """Items by number or slice, as a column of `datasets`."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        return self.values[key]


class Table:
    """A data set of `datasets`: rows by number, columns by name."""

    def __init__(self, columns):
        self.columns_by_name = columns
        self.column_names = list(columns)
        self.rows_read = []

    def __len__(self):
        return len(next(iter(self.columns_by_name.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return Column(self.columns_by_name[key])
        if key >= len(self):
            raise IndexError(key)
        self.rows_read.append(key)
        return {name: values[key] for name, values in self.columns_by_name.items()}

    def __iter__(self):
        return (self[number] for number in range(len(self)))


class IterableTable:
    """An `IterableDataset` of `datasets`: rows one after another, whose number is unknown."""

    def __init__(self, rows):
        self.rows = rows
        self.column_names = None

    def __iter__(self):
        return iter(self.rows)


class Frame:
    """A data frame of pandas: columns by name, each an array with an index."""

    def __init__(self, columns):
        self.columns = np.array(list(columns), object)
        self.values_by_name = columns
        self.shape = (len(next(iter(columns.values()))), len(columns))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, name):
        values = np.empty(len(self), object)
        values[:] = self.values_by_name[name]
        return values

    def to_dict(self):
        return self.values_by_name


class Numbered:
    """A data set of torch: items by number, and nothing else."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]


class PyDataset(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def loader(items):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(items, batch_size=2)


def tf_data(items):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(items)


def real_frame(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def real_table(rows):
    return pytest.importorskip("datasets").Dataset.from_dict(rows)


def ours(warned):
    """The warnings that are not of another library."""
    return [str(w.message) for w in warned if w.category is UserWarning]
