"""The learning rate and the tokens per second that `fit` logs beside the loss and the metrics."""

import contextlib
import threading
import time

import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import kernels

# How a step hands its number of tokens to `LogsRates`, which takes it out of the logs.
_TOKENS = "tokens_of_step"
_RATE = "learning_rate"


def logs_of_step(optimizer, batch, state=None):
    """What `LogsRates` needs of a step, read before it: after it a schedule is further on.

    Args:
        optimizer: the task's.
        batch: what the step takes.
        state: on JAX the values of the variables that the step takes.
    """
    with _optimizer_as_in(optimizer, state):
        rate = ops.convert_to_tensor(optimizer.learning_rate, "float32")
    return {_RATE: rate, _TOKENS: _tokens(*keras.utils.unpack_x_y_sample_weight(batch))}


def _optimizer_as_in(optimizer, state):
    """Inside, the optimizer's variables have the values that JAX hands to a step."""
    if state is None:
        return contextlib.nullcontext()
    _, _, values, _ = state
    mapping = zip(optimizer.variables, values, strict=True)
    return keras.StatelessScope(state_mapping=list(mapping))


def with_logs(found, logs):
    """What a step gives, a dict or on JAX a tuple that begins with one, with more in it."""
    if isinstance(found, tuple):
        return ({**found[0], **logs}, *found[1:])
    return {**found, **logs}


def without_logs(found, return_dict):
    """What `train_on_batch` gives, without what `logs_of_step` put there."""
    if return_dict:
        return {name: found[name] for name in found if name not in (_RATE, _TOKENS)}
    *found, _, _ = found  # Keras appends what is no metric
    return found if len(found) > 1 else found[0]


class LogsRates(keras.callbacks.Callback):
    """Adds `tokens_per_second` to the logs of steps and epochs.

    It is the mean of the epoch so far, from its begin to the end of the last step: with what the
    first steps take to be compiled, without validation. Of a task with `steps_per_execution`, the
    tokens of the last of so many steps stand for each of them.

    Args:
        task: `T5Gemma2Seq2SeqLM`. Keras gives no model to a callback in a list of the user's own.
    """

    async_safe = True  # steps do not wait for it

    def __init__(self, task):
        super().__init__()
        self.task = task
        self._lock = threading.Lock()
        self._begin(None)

    def on_epoch_begin(self, epoch, logs=None):
        self._begin(time.perf_counter())

    def on_train_batch_end(self, batch, logs=None):
        tokens = (logs or {}).pop(_TOKENS, None)
        if tokens is None:  # of a step of the user's own
            return
        with self._lock:
            self._tokens += tokens * self.task.steps_per_execution
            self._end = time.perf_counter()
            logs["tokens_per_second"] = self._per_second()

    def on_test_begin(self, logs=None):
        self._results = self._metrics()  # which validation resets

    def on_epoch_end(self, epoch, logs=None):
        if (logs or {}).pop(_TOKENS, None) is None:
            return
        # Keras has the logs of the last step, which under a strategy are those of one replica.
        results = self._metrics() if self._results is None else self._results
        logs.update({name: value for name, value in results.items() if name in logs})
        logs["tokens_per_second"] = self._per_second()

    def _metrics(self):
        results = self.task.get_metrics_result()
        results = {name: ops.convert_to_numpy(value) for name, value in results.items()}
        return {name: float(value) for name, value in results.items() if np.ndim(value) == 0}

    def _begin(self, now):
        self._start = self._end = now
        self._tokens, self._results = 0, None

    def _per_second(self):
        return self._tokens / max(self._end - self._start, 1e-9)


def with_rates(callbacks, task):
    """The callbacks of `fit`, of which the first logs rates: the others see them.

    Args:
        callbacks: list, or a `keras.callbacks.CallbackList`.
        task: `T5Gemma2Seq2SeqLM`.
    """
    rates = LogsRates(task)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, rates)
        return callbacks
    return [rates, *callbacks]


def _tokens(x, y, weights):
    """How many tokens of a batch are no padding, on both sides, over all replicas."""
    names = [name for name in ("encoder_padding_mask", "decoder_padding_mask") if name in x]
    masks = [ops.cast(x[name], "float32") for name in names]
    of_rows = sum(ops.sum(mask, axis=1) for mask in masks)
    if weights is not None:  # rows that fill a batch up weigh nothing
        weights = ops.reshape(weights, (ops.shape(of_rows)[0], -1))
        of_rows = ops.where(ops.any(weights != 0, axis=1), of_rows, 0.0)
    count = ops.sum(of_rows)
    # Of all processes of torch, and then of all replicas of TensorFlow.
    return kernels.summed_over_replicas(
        kernels.sums_of_metrics(kernels.TokenSums(count, count, count)).weight
    )
