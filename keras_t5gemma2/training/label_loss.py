"""The default loss and metric of a classifier: what the labels are decides which."""

import keras
from keras import ops

from keras_t5gemma2.layer_config import registered
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.array_checks import IGNORED

# By kind of label, the activation of outputs whose loss is one of probabilities.
_ACTIVATIONS = {"number": None, "class": "softmax", "classes": "sigmoid"}
_EPSILON = 1e-7


def kind_of_labels(labels_shape, outputs_shape):
    """What labels say, as the reference tells it: "number", "class" or "classes" of several.

    Args:
        labels_shape: tuple, (...) or (..., 1), or (..., num_classes) of several labels at once.
            Sizes that a traced step does not know are `None`.
        outputs_shape: tuple, (..., num_classes).

    >>> kind_of_labels((8,), (8, 3)), kind_of_labels((8, 3), (8, 3)), kind_of_labels((8,), (8, 1))
    ('class', 'classes', 'number')
    """
    if outputs_shape[-1] == 1:
        return "number"
    has_axis = len(labels_shape) == len(outputs_shape)
    return "classes" if has_axis and labels_shape[-1] != 1 else "class"


@registered
class LabelLoss(keras.losses.Loss):
    """Mean squares for one output, cross-entropy for labels 0, 1, ..., binary for several at once.

    These are the losses of the reference: "regression", "single_label_classification" and
    "multi_label_classification". A label of -100 has no loss. The mean is over labels, each as
    its weight says.

    Args:
        activation: "linear", "softmax" or "sigmoid", which outputs have been through.

    Example:

    >>> from keras_t5gemma2.training.label_loss import LabelLoss
    >>> round(float(LabelLoss()(np.array([1, -100]), np.zeros((2, 2)))), 4)
    0.6931
    """

    def __init__(self, activation="linear", name="label_loss", **kwargs):
        reduction = kwargs.pop("reduction", "mean_with_sample_weight")
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.activation = activation

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        kind = kind_of_labels(y_true.shape, y_pred.shape)
        check_activation(kind, self.activation)
        if kind != "classes":
            y_true = ops.reshape(y_true, ops.shape(y_pred)[:-1])
        counted = ops.cast(y_true != IGNORED, "float32") if kind == "class" else None
        if sample_weight is None:
            sample_weight = counted
        elif counted is not None:
            weight = ops.cast(sample_weight, "float32")
            while len(weight.shape) < len(counted.shape):
                weight = ops.expand_dims(weight, -1)
            sample_weight = weight * counted
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        kind, x = kind_of_labels(y_true.shape, y_pred.shape), ops.cast(y_pred, "float32")
        is_logit = self.activation == "linear"
        if kind == "number":
            return ops.square(ops.cast(y_true, "float32") - ops.squeeze(x, -1))
        if kind == "classes":
            each = ops.binary_crossentropy(ops.cast(y_true, "float32"), x, from_logits=is_logit)
            return ops.mean(each, axis=-1)
        labels = ops.where(y_true == IGNORED, 0, ops.cast(y_true, "int32"))
        x = ops.log_softmax(x, axis=-1) if is_logit else ops.log(ops.maximum(x, _EPSILON))
        return -ops.squeeze(ops.take_along_axis(x, ops.expand_dims(labels, -1), axis=-1), -1)


def check_activation(kind, activation):
    """Raises a `ValueError` where the default loss does not take outputs of an activation."""
    if activation in ("linear", _ACTIVATIONS[kind]):
        return
    wanted = _ACTIVATIONS[kind]
    rule = "None" if wanted is None else f'None or "{wanted}"'
    what = {
        "number": "num_classes=1, which is regression",
        "class": "one label for each row or token",
        "classes": "several labels at once",
    }
    raise ValueError(
        f"`activation` must be {rule} for the default loss of {what[kind]}. Received: "
        f"activation={shown(activation)}. Give `compile` a loss of your own"
    )


@registered
class LabelAccuracy(keras.metrics.Mean):
    """The part of labels that are right; those of -100 do not count.

    Right is the class with the largest output; where there may be several classes at once, each
    of them counts, and is said from a logit of 0 or a probability of 0.5 on.

    Args:
        activation: as of `LabelLoss`.
    """

    def __init__(self, activation="linear", name="accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.activation = activation

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if kind_of_labels(y_true.shape, y_pred.shape) == "classes":
            is_said = y_pred > (0.0 if self.activation == "linear" else 0.5)
            is_so = ops.cast(y_true, "float32") > 0.5
            right = ops.mean(ops.cast(ops.equal(is_said, is_so), "float32"), axis=-1)
            return super().update_state(right, sample_weight)
        y_true = ops.reshape(ops.cast(y_true, "int32"), ops.shape(y_pred)[:-1])
        found = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        right = ops.cast(ops.equal(found, y_true), "float32")
        weight = ops.cast(y_true != IGNORED, "float32")
        if sample_weight is not None:
            given = ops.cast(sample_weight, "float32")
            while len(given.shape) < len(weight.shape):
                given = ops.expand_dims(given, -1)
            weight = weight * given
        return super().update_state(right, weight)
