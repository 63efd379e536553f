"""The loss and metrics of target tokens, each token as its weight says, without their logits."""

import contextlib
import contextvars

import keras
import keras_hub
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import short_errors, warn
from keras_t5gemma2.model.array_checks import IGNORED
from keras_t5gemma2.training.compile_config import compile_config, compile_from
from keras_t5gemma2.training.distillation import split_targets
from keras_t5gemma2.training.reporting import step_begins

# The task whose calls give hidden states and not logits, in this thread and now.
_giving_hidden = contextvars.ContextVar("giving_hidden", default=None)


class TrainsWithoutLogits:
    """Makes a task's steps take the loss from hidden states; calls and `predict` give logits."""

    _needs_logits = False  # for what the user compiled with
    _token_loss = None
    _is_checkpointing = None  # as the compiled training step has it

    def compile(
        self, optimizer="auto", loss="auto", *, weighted_metrics="auto", sampler="top_k", **kwargs
    ):
        """Configures training and generation.

        By default the loss is the mean cross-entropy over the target tokens, each times its
        weight, and the metrics are `accuracy` and `perplexity`, of tokens too. All three come
        from one pass that never forms the logits of a whole batch. A loss or metrics of your
        own get the logits, (batch, decoder length, vocabulary).

        Args:
            optimizer: as `keras.Model.compile` has it; "auto" for AdamW, its gradients clipped to
                a norm of 1.0, with a rate for the width of the model and for what is trained:
                8.5e-5 for all weights of the 270M model, and ten times that for adapters. It is
                made anew when adapters come or go, and any other is kept.
            loss: a loss on logits, or "auto".
            weighted_metrics: list of metrics on logits, or "auto".
            sampler: name or `keras_hub.samplers.Sampler`, for `generate`.
            **kwargs: as `keras.Model.compile` has them.

        Raises:
            ValueError: `loss_weights` without a loss of your own.
        """
        if loss == "auto" and kwargs.get("loss_weights") is not None:
            raise ValueError(
                '`loss_weights` must come with a `loss`; loss="auto" is a single loss, whose '
                "tokens `sample_weight` weighs. Received: "
                f"loss_weights={kwargs['loss_weights']}"
            )
        with short_errors():
            sampler = keras_hub.samplers.get(sampler)
        self._token_loss = TokenLoss(weighted_metrics == "auto") if loss == "auto" else None
        if weighted_metrics == "auto":
            weighted_metrics = None if loss == "auto" else metrics_of_logits()
        self._needs_logits = bool(loss != "auto" or weighted_metrics or kwargs.get("metrics"))
        compat.forget_loss(self)  # of an earlier call
        self._has_default_optimizer = isinstance(optimizer, str) and optimizer == "auto"
        if self._has_default_optimizer:
            optimizer = self._default_optimizer()
        super().compile(
            optimizer,
            None if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )
        # Keras does so for "mixed_float16"; gradients of float16 are the same under "float16".
        scaled, wanted = keras.optimizers.LossScaleOptimizer, kwargs.get("auto_scale_loss", True)
        is_scaled = isinstance(self.optimizer, scaled)
        if wanted and self.dtype_policy.name == "float16" and not is_scaled:
            self.optimizer = scaled(self.optimizer, name="loss_scale_optimizer")

    def get_compile_config(self):
        """What a file of the model keeps of `compile`: optimizer, loss, metrics and sampler."""
        return compile_config(self, super().get_compile_config())

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says, with an optimizer built to take its state."""
        compile_from(self, config)

    def call(self, inputs, training=None, mask=None, **kwargs):
        inputs = self.backbone.complete(inputs)
        if not self._gives_hidden:
            return super().call(inputs, training=training, mask=mask, **kwargs)
        return self.backbone(inputs, training=training)["decoder_sequence_output"]

    def train_step(self, *args, **kwargs):
        step_begins("a step of fit", args[-1])
        with self._without_logits():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        step_begins("a step of evaluate", args[-1])
        with self._without_logits():
            return super().test_step(*args, **kwargs)

    def predict_step(self, *args, **kwargs):
        step_begins("a step of predict", args[-1])
        return super().predict_step(*args, **kwargs)

    def make_train_function(self, force=False):
        _check_optimizer(self)
        # What was compiled for the other setting would go on as before.
        kernels.prepare_training(self)
        for variable in self.trainable_variables:
            kernels.lay_out(variable, for_steps=False)
        if self.train_function is None:
            _check_trained(self.trainable_variables)
        is_checkpointing = self.backbone.gradient_checkpointing
        changed = is_checkpointing != self._is_checkpointing
        self._is_checkpointing = is_checkpointing
        return super().make_train_function(force or changed)

    @contextlib.contextmanager
    def _without_logits(self):
        """A step inside, which may be traced, gets hidden states as the model's output."""
        token = _giving_hidden.set(None if self._needs_logits else self)
        try:
            yield
        finally:
            _giving_hidden.reset(token)

    @property
    def _gives_hidden(self):
        return _giving_hidden.get() is self

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of logits `y_pred`, as `compile` says; in a step, of hidden states.

        `y` are labels, or what `Distillation.targets` makes of them.
        """
        if self._token_loss is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        sums = self._token_sums(y, y_pred, sample_weight, training)
        extra = sum(compat.scaled_loss(self, loss) for loss in self.losses)
        return self._token_loss.update(sums, extra)

    def token_sums(self, x, y, sample_weight=None, training=True):
        """The loss of a batch as sums over its tokens, for training loops of your own.

        The loss of `fit` is `loss / weight`. Where several processes have a part of a batch each,
        both are added up over them before they are divided: a mean of their means would count
        the tokens of short answers more.

        Args:
            x, y, sample_weight: what `preprocess_samples` gives, as arrays or tensors. A label
                of -100 has no loss.
            training: bool. Whether a gradient will be asked for.

        Returns:
            `kernels.TokenSums`: `loss`, `correct` and `weight`, float32 scalars.
        """
        kernels.check_parameters(self)
        with self._without_logits():
            y_pred = self(x, training=training)
            return self._token_sums(y, y_pred, sample_weight, training)

    def _token_sums(self, y, y_pred, sample_weight, training):
        labels, targets = split_targets(y)
        weights = token_weights(labels, sample_weight)
        is_ignored = ops.equal(labels, IGNORED)  # in a training loop of a user's own
        labels, weights = ops.where(is_ignored, 0, labels), ops.where(is_ignored, 0.0, weights)
        if not self._gives_hidden:
            return kernels.cross_entropy(y_pred, labels, weights, targets)
        layer, trainable = self.backbone.token_embedding, None
        table = layer.embeddings
        if layer.has_integers:  # in floats while the loss is computed; frozen
            table, trainable = layer.float_matrix(), False
        return kernels.linear_cross_entropy(
            *(y_pred, table, labels, weights, layer.logit_soft_cap, training),
            targets=targets,
            trainable=trainable,
        )

    @property
    def metrics(self):
        return super().metrics + ([] if self._token_loss is None else self._token_loss.metrics)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        if self._token_loss is not None:
            # Keras weighs batches by their rows: those of few tokens would count too much.
            results["loss"] = results.pop(self._token_loss.mean.name)
        return results


def _check_optimizer(task):
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
    """Means over the tokens of all batches of an epoch, however unequal the batches are.

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


class Perplexity(keras.metrics.Mean):
    """The exponential of a mean."""

    def result(self):
        return ops.exp(super().result())


def _check_trained(variables):
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
