"""Batches as Keras's trainers take them."""

import functools
import itertools

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat.keras import DataAdapter
from keras_t5gemma2.preprocessing import traced
from keras_t5gemma2.sharding.batch import row_parts, shares_single_rows, with_rows
from keras_t5gemma2.training.distillation import split_targets
from keras_t5gemma2.training.joining import joined, marked
from keras_t5gemma2.training.process_rows import part_of_batch


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
    has_token_outputs = True  # whether these are of tokens, or of rows
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
        parts = row_parts()
        if parts == 1:
            yield from self._read_batches()
            return
        for number, (batch, size) in enumerate(self._read_batches()):
            rows, _, length = size
            if number == 0 and rows == 1 and shares_single_rows():
                parts = 1
            missing = -rows % parts
            yield self._with_rows(batch, rows, missing, parts), (rows, missing, length)

    def _read_batches(self):
        """Pairs of a batch and its place in `sizes`."""
        for batch in self.get_numpy_iterator():
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            some = next(iter(x.values()))
            length = x.get("decoder_token_ids", some).shape[-1] if self.has_token_outputs else 1
            yield batch, (len(some), 0, length)

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
        x, y, weights = with_rows((x, y, weights), rows + missing)
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
