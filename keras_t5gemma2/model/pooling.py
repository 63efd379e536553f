"""One vector a row, of the hidden states of the row's tokens."""

import math

import keras
from keras import layers, ops

from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.messages import shown

KINDS = ("mean", "attention", "first", "last")


@registered
class Pooling(Configured, layers.Layer):
    """One float32 vector a row: a weighted sum of the states of its tokens, padding left out.

    The vector of a row is the same in every batch, with padding on either side or none, and
    whatever stands at padding. A row of padding alone gives zeros. All is computed in float32,
    without matrix products, which some devices round.

    | kind | weights of the tokens |
    | --- | --- |
    | "mean" | the same for all |
    | "attention" | softmax of (state . query) / sqrt(hidden_dim) |
    | "first", "last" | 1 for the first or last token that is no padding |

    The `query` of "attention", (hidden_dim,), is the only weight of any kind. It starts as zeros,
    with which the result is the mean.

    Args:
        kind: "mean", "attention", "first" or "last".

    Call arguments:
        x: (batch, length, hidden_dim) tensor of any float dtype.
        padding_mask: (batch, length) tensor, 0 where the token is padding.

    Returns:
        (batch, hidden_dim) float32 tensor.

    Raises:
        ValueError: there is no such kind.

    Example:

    >>> from keras_t5gemma2.model.pooling import Pooling
    >>> x, mask = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), np.array([[1, 1, 0]])
    >>> keras.ops.convert_to_numpy(Pooling("mean")(x, mask)).tolist()
    [[2.0, 3.0]]
    """

    arguments = {"kind": None}

    def __init__(self, kind="mean", **kwargs):
        if kind not in KINDS:
            names = ", ".join(map(repr, KINDS))
            raise ValueError(f"`pooling` must be one of {names}. Received: pooling={shown(kind)}")
        super().__init__(autocast=False, **kwargs)  # states stay as exact as they come
        self.kind = kind
        self.query = None

    def build(self, x_shape):
        if self.kind == "attention":
            self.query = self.add_weight(name="query", shape=(x_shape[-1],), initializer="zeros")
        self.built = True

    def call(self, x, padding_mask):
        seen = ops.cast(padding_mask, "bool")
        # Hidden by `where`: at padding there may be values that are not finite.
        x = ops.where(ops.expand_dims(seen, -1), ops.cast(x, "float32"), 0.0)
        weights = ops.expand_dims(self._weights(x, seen), -1)
        return ops.sum(x * weights, axis=1)

    def _weights(self, x, seen):
        """(B, S) float32, of sum 1 where a row has a token."""
        if self.kind == "attention":
            scores = ops.sum(x * ops.cast(self.query, "float32"), axis=-1)
            scores = ops.where(seen, scores / math.sqrt(x.shape[-1]), -1e30)
            return ops.softmax(scores, axis=-1)  # of padding alone, where `x` is 0, all the same
        counts = ops.cumsum(ops.cast(seen, "int32"), axis=1)
        total = ops.sum(ops.cast(seen, "int32"), axis=1, keepdims=True)
        if self.kind == "mean":
            return ops.cast(seen, "float32") / ops.cast(ops.maximum(total, 1), "float32")
        place = 1 if self.kind == "first" else total
        return ops.cast(ops.logical_and(seen, ops.equal(counts, place)), "float32")

    def compute_output_spec(self, x, padding_mask):
        return keras.KerasTensor((x.shape[0], x.shape[-1]), dtype="float32")
