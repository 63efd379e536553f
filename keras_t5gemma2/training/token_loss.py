"""The loss and metrics of target tokens, each token as its weight says, without their logits."""

import contextlib
import contextvars

import keras
import keras_hub
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import warn
from keras_t5gemma2.model.array_checks import IGNORED
from keras_t5gemma2.training.distillation import split_targets

# The task whose calls give hidden states and not logits, in this thread and now.
_giving_hidden = contextvars.ContextVar("giving_hidden", default=None)


@contextlib.contextmanager
def giving_hidden(task):
    """Inside, also while a step is traced, calls of a task give hidden states; of `None` none."""
    token = _giving_hidden.set(task)
    try:
        yield
    finally:
        _giving_hidden.reset(token)


def gives_hidden(task):
    """Whether calls of a task give hidden states now."""
    return _giving_hidden.get() is task


def check_optimizer(task):
    """Raises a `ValueError` if there is nothing to train, or an optimizer of other variables."""
    trained = task.trainable_variables
    if not trained:
        raise ValueError(
            "There must be something to train. Received: a task whose every part has "
            "`trainable = False`. Set `lm.backbone.trainable = True`, or that of a part"
        )
    optimizer = getattr(task.optimizer, "inner_optimizer", task.optimizer)  # if it scales the loss
    if not getattr(optimizer, "built", False):
        return
    known = {id(variable): variable.path for variable in compat.trained_variables(optimizer)}
    new = [variable.path for variable in trained if id(variable) not in known]
    if new or len(known) > len(trained):
        gone = set(known.values()) - {variable.path for variable in trained}
        changed = f"not {new[0]!r}" if new else f"also {sorted(gone)[0]!r}"
        raise ValueError(
            f"The optimizer must have been made for the {len(trained)} variables that are trained. "
            f"Received: one for {len(known)} variables, {changed}. It belongs to another model, or "
            "`trainable` of a part has changed since: call `compile` with a new optimizer, or set "
            "`trainable` back"
        )


class TokenLoss:
    """The loss and metrics of a task's tokens: means over all batches, however unequal they are.

    Args:
        has_metrics: bool. Whether to keep the accuracy and the perplexity beside the loss.
    """

    def __init__(self, has_metrics):
        self.mean = keras.metrics.Mean(name="token_loss")
        self.accuracy = keras.metrics.Mean(name="accuracy")
        self.perplexity = Perplexity(name="perplexity")
        self.metrics = [self.mean]
        if has_metrics:
            self.metrics += [self.accuracy, self.perplexity]

    def update(self, sums, extra):
        """The loss of a batch of `kernels.TokenSums`, which is taken into the means.

        Args:
            sums: `kernels.TokenSums`. A batch without weight has the loss 0.
            extra: scalar tensor, or 0. What layers add to the loss, such as regularization.

        Returns:
            The loss, or this replica's share of it: their gradients together are its gradient.
        """
        weight = kernels.summed_over_replicas(sums.weight)
        share = ops.divide_no_nan(sums.loss, weight) + extra

        sums = kernels.sums_of_metrics(sums)
        loss = ops.divide_no_nan(sums.loss, sums.weight)
        self.mean.update_state(loss + extra, sample_weight=sums.weight)
        self.perplexity.update_state(loss, sample_weight=sums.weight)
        accuracy = ops.divide_no_nan(sums.correct, sums.weight)
        self.accuracy.update_state(accuracy, sample_weight=sums.weight)
        return share


def token_sums(backbone, y, y_pred, sample_weight, training, of_hidden):
    """The `kernels.TokenSums` of a batch: its loss, correct tokens and weight, added up.

    Args:
        backbone: `T5Gemma2Backbone`.
        y: (B, T) labels, -100 for none; or what `Distillation.targets` makes of them.
        y_pred: (B, T, vocabulary) logits, or (B, T, hidden_dim) outputs of the decoder.
        sample_weight: (B,) or (B, T) floats, or `None`.
        training: bool. Whether a gradient will be asked for.
        of_hidden: bool. Whether `y_pred` are outputs of the decoder: their logits are then never
            there all at once.
    """
    labels, targets = split_targets(y)
    weights = token_weights(labels, sample_weight)
    is_ignored = ops.equal(labels, IGNORED)  # in a training loop of a user's own
    labels, weights = ops.where(is_ignored, 0, labels), ops.where(is_ignored, 0.0, weights)
    if not of_hidden:
        return kernels.cross_entropy(y_pred, labels, weights, targets)
    layer, trainable = backbone.token_embedding, None
    table = layer.embeddings
    if layer.has_integers:  # in floats while the loss is computed; frozen
        table, trainable = layer.float_matrix(), False
    elif layer.lattice is not None:
        table, trainable = layer.rounded_matrix(), table.trainable
    return kernels.linear_cross_entropy(
        *(y_pred, table, labels, weights, layer.logit_soft_cap, training),
        targets=targets,
        trainable=trainable,
    )


def is_of_slopes(y):
    """Whether `y` says what the log-probability of each label is times in the loss."""
    return isinstance(y, dict) and "slopes" in y


def sum_of_slopes(backbone, y, y_pred, training):
    """The sum over tokens of minus the log-probability of the label times its slope.

    Args:
        backbone: `T5Gemma2Backbone`.
        y: dict of (B, T) `labels` and float `slopes`, 0 where there is no label; with
            `teacher_ids` and `teacher_probabilities`, these are in the place of the labels.
        y_pred: (B, T, hidden_dim) outputs of the decoder.
        training: as `token_sums` has it.
    """
    targets = y if "teacher_ids" in y else y["labels"]
    return token_sums(backbone, targets, y_pred, y["slopes"], training, of_hidden=True).loss


class Perplexity(keras.metrics.Mean):
    """The exponential of a mean."""

    def result(self):
        return ops.exp(super().result())


def check_trained(variables):
    """Warns of trained weights whose steps are lost to rounding."""
    if any(keras.backend.standardize_dtype(v.dtype) == "float16" for v in variables):
        warn(
            "Weights of float16 are being trained: most steps are smaller than their rounding, "
            'and averages of squared gradients are 0. Use dtype="mixed_float16", or '
            "`enable_lora`, whose adapters are float32"
        )


def metrics_of_logits():
    """The same metrics for a loss of the user's own."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras_hub.metrics.Perplexity(from_logits=True, name="perplexity"),
    ]


def token_weights(labels, sample_weight):
    """(B, T) float32 weights: 1 by default; a weight of a row counts for each of its tokens."""
    if sample_weight is None:
        return ops.ones(ops.shape(labels), "float32")
    # Also where TensorFlow, having seen weights of rows and of tokens, no longer knows the rank.
    weights = ops.reshape(ops.cast(sample_weight, "float32"), (ops.shape(labels)[0], -1))
    return ops.broadcast_to(weights, ops.shape(labels))
