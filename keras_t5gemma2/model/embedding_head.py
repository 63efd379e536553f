"""What makes the vector of a row of the hidden states of its tokens: pooling, cutting, norm."""

import keras
import numpy as np
from keras import layers, ops

from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.pooling import Pooling
from keras_t5gemma2.options import integer

# Shorter vectors than this are taken to be of this length.
_EPSILON = 1e-12


@registered
class EmbeddingHead(Configured, layers.Layer):
    """A float32 vector a row: pooled states, of which the first `dimensions` numbers are kept.

    Args:
        kind: "mean", "attention", "first" or "last"; see `Pooling`.
        normalize: bool. Whether vectors have the length 1.
        dimensions: int, or `None` for as many as a state has.

    Call arguments:
        x: (batch, length, hidden_dim) tensor of any float dtype.
        padding_mask: (batch, length) tensor, 0 where the token is padding.

    Example:

    >>> from keras_t5gemma2.model.embedding_head import EmbeddingHead
    >>> x, mask = np.array([[[3.0, 4.0, 8.0], [9.0, 9.0, 9.0]]]), np.array([[1, 0]])
    >>> vectors = EmbeddingHead(dimensions=2)(x, mask)
    >>> np.round(keras.ops.convert_to_numpy(vectors).tolist(), 4).tolist()
    [[0.6, 0.8]]
    """

    arguments = {"kind": None, "normalize": None, "dimensions": None}

    def __init__(self, kind="mean", normalize=True, dimensions=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.pooling = Pooling(kind, dtype=self.dtype_policy, name="pooling")
        self.normalize, self.dimensions = normalize, dimensions

    @property
    def kind(self):
        """The kind of pooling."""
        return self.pooling.kind

    def build(self, x_shape):
        self.pooling.build(x_shape)
        self.built = True

    def call(self, x, padding_mask):
        vectors = self.pooling(x, padding_mask)[:, : self.dimensions]
        return unit(vectors) if self.normalize else vectors

    def compute_output_spec(self, x, padding_mask):
        width = self.dimensions or x.shape[-1]
        return keras.KerasTensor((x.shape[0], width), dtype="float32")


def unit(vectors):
    """(..., D) vectors of the length 1; zeros stay zeros."""
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, _EPSILON))


def shortened(vectors, dimensions, normalize):
    """The first numbers of (rows, D) float32 arrays, of the length 1 again where asked for."""
    vectors = np.asarray(vectors, "float32")[:, :dimensions]
    if not normalize:
        return vectors
    squares = np.sum(np.square(vectors), axis=-1, keepdims=True)
    return vectors / np.sqrt(np.maximum(squares, _EPSILON))


def checked_dimensions(dimensions, width):
    """`dimensions` as a Python integer or `None`.

    Raises:
        ValueError: there are not so many numbers in a vector of this width.
    """
    if dimensions is None:
        return None
    count = integer(dimensions)
    if count is None or not 1 <= count <= width:
        raise ValueError(
            f"`dimensions` must be `None` or an integer from 1 to {width}, the numbers of a "
            f"vector. Received: dimensions={shown(dimensions)}"
        )
    return count
