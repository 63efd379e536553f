"""What a classifier puts on hidden states, and what the decoder reads for it."""

import keras
from keras import layers, ops

from keras_t5gemma2.layer_config import Configured, registered

_STDDEV = 0.02  # of the weights, over the root of the number of classes, as in the reference


@registered
class ClassifierHead(Configured, layers.Layer):
    """(..., num_classes) float32 logits, or what an activation makes of them, of hidden states.

    They are dropout and one matrix with a bias, `output`, as in the reference; with `hidden_dim`
    there are dropout, a matrix and tanh before, `hidden`. All is computed and kept in float32,
    whatever the dtype of the model, since a small head costs nothing and is trained anew.

    Args:
        num_classes: int.
        hidden_dim: int, or `None` for no hidden layer.
        dropout: float.
        activation: name of an activation, function or `None`.

    Call arguments:
        x: (..., hidden_dim of the model) tensor of any float dtype.

    Example:

    >>> from keras_t5gemma2.model.head import ClassifierHead
    >>> ClassifierHead(num_classes=3)(np.zeros((2, 5))).shape == (2, 3)
    True
    """

    arguments = {"num_classes": None, "hidden_dim": None, "dropout": None, "activation": None}

    def __init__(self, num_classes, hidden_dim=None, dropout=0.0, activation=None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_classes, self.hidden_dim, self.dropout = num_classes, hidden_dim, dropout
        self.activation = keras.activations.get(activation)
        self.hidden = None
        if hidden_dim is not None:
            self.hidden = layers.Dense(hidden_dim, "tanh", dtype="float32", name="hidden")
            self.hidden_drop = layers.Dropout(dropout, dtype="float32", name="hidden_drop")
        normal = keras.initializers.RandomNormal(stddev=_STDDEV * num_classes**-0.5)
        self.output_dense = layers.Dense(
            num_classes, kernel_initializer=normal, dtype="float32", name="output"
        )
        self.drop = layers.Dropout(dropout, dtype="float32", name="drop")

    def argument(self, name):
        if name == "activation":
            return keras.activations.serialize(self.activation)
        return super().argument(name)

    def build(self, shape):
        if self.hidden is not None:
            self.hidden.build(shape)
            shape = (*shape[:-1], self.hidden_dim)
        self.output_dense.build(shape)
        self.built = True

    def call(self, x, training=None):
        x = ops.cast(x, "float32")
        if self.hidden is not None:
            x = self.hidden(self.hidden_drop(x, training=training))
        return self.activation(self.output_dense(self.drop(x, training=training)))

    def compute_output_spec(self, x, training=None):
        return keras.KerasTensor((*x.shape[:-1], self.num_classes), dtype="float32")


@registered
class ShiftRight(Configured, layers.Layer):
    """The ids of each row one place to the right, behind a start token; the last one falls out.

    So the reference makes what its decoder reads of what its encoder reads, but it shifts whole
    rows, padding included; this takes the tokens of a row, wherever its padding is.

    Args:
        start_token_id: int.

    Call arguments:
        ids: (batch, length) integers.
        padding_mask: (batch, length), 0 where the token is padding.

    Returns:
        (batch, length) int32 ids, of which those at padding have no meaning.

    Example:

    >>> from keras_t5gemma2.model.head import ShiftRight
    >>> ids, mask = np.array([[5, 6, 7, 0], [0, 0, 8, 9]]), np.array([[1, 1, 1, 0], [0, 0, 1, 1]])
    >>> keras.ops.convert_to_numpy(ShiftRight(2)(ids, mask)).tolist()
    [[2, 5, 6, 7], [2, 2, 2, 8]]
    """

    arguments = {"start_token_id": None}

    def __init__(self, start_token_id, **kwargs):
        super().__init__(**{**kwargs, "dtype": "int32"})
        self.start_token_id = start_token_id

    def build(self, shape):
        self.built = True

    def call(self, ids, padding_mask):
        ids, seen = ops.cast(ids, "int32"), ops.cast(padding_mask, "int32")
        return ops.where(_shifted(seen) > 0, _shifted(ids), self.start_token_id)

    def compute_output_spec(self, ids, padding_mask):
        return keras.KerasTensor(ids.shape, dtype="int32")


def _shifted(x):
    return ops.pad(x, [[0, 0], [1, 0]])[:, :-1]
