"""One tensor out of two: keras-hub's model has two tables where T5Gemma 2 has one."""

import numpy as np

from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.messages import shown

# The values of `embeddings`: which of two tables that differ the model takes.
CHOICES = ("encoder", "decoder", "mean")

_BYTES_AT_ONCE = 1 << 23


def check_choice(embeddings):
    """Raises where `embeddings` is no choice."""
    if embeddings is not None and embeddings not in CHOICES:
        raise ValueError(
            f"`embeddings` must be one of {', '.join(map(repr, CHOICES))}, or `None`. "
            f"Received: embeddings={shown(embeddings)}"
        )


def one_of(encoder, decoder, embeddings, directory):
    """The one tensor of a pair.

    Args:
        encoder, decoder: tensors of a file, `FileTensor`s.
        embeddings: one of `CHOICES`; or `None`, where they must be equal.
        directory: what errors call the preset.
    """
    if encoder.shape != decoder.shape or not encoder.shape:
        raise ValueError(
            f"The tensors {encoder.name} and {decoder.name} of {directory} must have the same "
            f"shape, and be no scalars. Received: {encoder.shape} and {decoder.shape}"
        )
    if embeddings == "mean":
        name = f"the mean of {encoder.name} and {decoder.name}"
        return StoredTensor(name, encoder.shape, lambda: _mean(encoder, decoder))
    if embeddings is None:
        _check_equal(encoder, decoder, directory)
    return decoder if embeddings == "decoder" else encoder


def _check_equal(encoder, decoder, directory):
    num_rows, largest = 0, 0.0
    for one, other in _pieces(encoder, decoder):
        # NaN, which is refused later, is here as good as any other value.
        is_other = np.any((one != other) & ((one == one) | (other == other)), axis=1)
        num_rows += int(is_other.sum())
        difference = one[is_other].astype("float32") - other[is_other].astype("float32")
        largest = np.maximum(largest, np.abs(difference).max(initial=0.0))
    if num_rows:
        raise ValueError(
            f"{encoder.name} and {decoder.name}, the encoder's and the decoder's embeddings, must "
            f"be equal in {directory}, because T5Gemma 2 has one table for both. Received: two "
            f"that differ in {num_rows} rows, by up to {largest:.3g}, as training in keras-hub "
            "unties them. Give `embeddings='encoder'` or `embeddings='decoder'` to take one of "
            "them, or `embeddings='mean'` to take their mean"
        )


def _mean(encoder, decoder):
    pieces = [
        ((one.astype("float32") + other.astype("float32")) / 2).astype(one.dtype)
        for one, other in _pieces(encoder, decoder)
    ]
    return np.concatenate(pieces).reshape(encoder.shape)


def _pieces(encoder, decoder):
    """Some rows of both at a time; a vector is one row."""
    width = encoder.shape[-1]
    tables = [tensor.read().reshape(-1, width) for tensor in (encoder, decoder)]
    step = max(1, _BYTES_AT_ONCE // max(1, tables[0].itemsize * width))
    for start in range(0, len(tables[0]), step):
        yield [table[start : start + step] for table in tables]
        encoder.release()
        decoder.release()
