"""Raw rows of text and images as batches that `keras.Model.fit` takes, on every backend."""

import math

import keras
import numpy as np

from keras_t5gemma2.preprocessing.rows import parse_rows


def batches_of(preprocessor, x, y=None, sample_weight=None, batch_size=None, shuffle=False):
    """A `keras.utils.PyDataset` of preprocessed batches, or `None` where another path serves.

    Rows are sliced here and not by `tf.data` or grain, since rows of images of different sizes
    and numbers are no arrays, and since it needs neither library.
    """
    if preprocessor is None:
        return None
    if isinstance(x, keras.utils.PyDataset):
        return PreprocessedBatches(preprocessor, x)
    if isinstance(x, (dict, list, tuple, np.ndarray, str)):
        return RowBatches(preprocessor, x, y, sample_weight, batch_size or 32, shuffle)
    return None


class RowBatches(keras.utils.PyDataset):
    """Batches of rows, in a new order for each epoch; `x` as `parse_rows` takes it."""

    def __init__(self, preprocessor, x, y, sample_weight, batch_size, shuffle):
        super().__init__()
        self.rows, _ = parse_rows(x)
        self.preprocessor, self.y, self.sample_weight = preprocessor, y, sample_weight
        self.batch_size, self.shuffle = batch_size, shuffle
        self.order = np.arange(len(self.rows))
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index):
        batch = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        x = [self.rows[i] for i in batch]
        weight = None if self.sample_weight is None else np.asarray(self.sample_weight)[batch]
        return self.preprocessor(x, self.y, weight)

    def on_epoch_end(self):
        if self.shuffle:
            np.random.shuffle(self.order)


class PreprocessedBatches(keras.utils.PyDataset):
    """The batches of another data set, preprocessed."""

    def __init__(self, preprocessor, batches):
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self.preprocessor, self.batches = preprocessor, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.preprocessor(*keras.utils.unpack_x_y_sample_weight(self.batches[index]))

    def on_epoch_end(self):
        self.batches.on_epoch_end()
