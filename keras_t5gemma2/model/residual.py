"""The sums over layers that a stack hands on: their dtype, and their dropout."""

from keras import layers


def sum_dtype(dtype):
    """The dtype of sums over layers that compute in `dtype`: of what a stack hands on.

    The published models grow past 65,504, where float16 ends. Their products stay below it: only
    those are float16, and what they are added to is float32. bfloat16 has the range of float32.
    """
    return "float32" if dtype == "float16" else dtype


def take_sums(layer):
    """Has `layer` get sums of the `sum_dtype` as they are, where Keras would cast them."""
    if sum_dtype(layer.compute_dtype) != layer.compute_dtype:
        layer.autocast = False
    return layer


def dropout_of(layer):
    """The dropout of a layer's activations, whatever their dtype."""
    rate = layer.config.dropout
    return take_sums(layers.Dropout(rate, dtype=layer.dtype_policy, name="dropout"))


def dropped(dropout, x, training):
    """`x` after a dropout layer, which is not even called where it does nothing."""
    return dropout(x, training=True) if training and dropout.rate else x
