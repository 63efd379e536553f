"""A callback of `fit` that merges an adapter into the weights every so often, and restarts it."""

from typing import TYPE_CHECKING

import keras
from keras import ops

from keras_t5gemma2.lora.merging import restart
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted
from keras_t5gemma2.training.optimizer_steps import inner_optimizer, state_of

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.task import T5Gemma2Task


class ReLoRA(keras.callbacks.Callback):
    """Merges the adapter into the weights every so many steps, and starts it anew.

    A sum of adapters has a higher rank than any of them: so the weights as a whole can be
    trained, with an optimizer that keeps state for small matrices alone (ReLoRA, arXiv 2307.05695),
    as in low-rank pre-training with `T5Gemma2DenoisingPreprocessor`. After a restart A is random, B
    is 0, and what the optimizer has remembered of both is forgotten; its first steps are shortened,
    since it knows little of the gradients then.

    What was merged is in the weights for good: keep the whole model, by `save_to_preset`, for an
    adapter's file has only what was learned since the last restart.

    Args:
        every: int. Steps of the optimizer between two restarts.
        warmup: int. So many steps after a restart are shortened, the first one to 1 / (warmup + 1).

    Attributes:
        restarts: int. How often it was merged in the last `fit`.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> lm.enable_lora(rank=2, target=["query", "value"])
    >>> again = keras_t5gemma2.ReLoRA(every=2)
    >>> history = lm.fit(rows, epochs=5, callbacks=[again], verbose=0)
    >>> again.restarts
    2
    """

    def __init__(self, every: int, warmup: int = 10) -> None:
        super().__init__()
        self.every, self.warmup = counted("every", every), counted("warmup", warmup, least=0)
        self.restarts = 0
        self._task: T5Gemma2Task | None = None
        self._count, self._last, self._calls = 0, -1, every

    def prepare(self, task: "T5Gemma2Task") -> None:
        """Checks that the adapter can be merged, as `fit` does it before its first step.

        Args:
            task: the task, with an active adapter.

        Raises:
            ValueError: no plain adapter is active, or its kernels are of integers.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> keras_t5gemma2.ReLoRA(every=100).prepare(lm)
        """
        adapters = task.adapter_set
        adapters.check_trainable()
        config = adapters.configs.get(adapters.trained)
        if config is None:
            raise ValueError(
                "`ReLoRA` must have an adapter to merge. Received: a model without an active "
                "adapter. Call `enable_lora` first."
            )
        if config.use_dora or config.triplets or config.init is not None:
            raise ValueError(
                "`ReLoRA` must have a plain adapter. Received: one with use_dora="
                f"{config.use_dora}, init={shown(config.init)}, adaptive ranks={config.triplets}. "
                "Call `enable_lora` without them."
            )
        integers = [p for p, layer in adapters.layers().items() if layer.quantization_mode]
        if integers:
            raise ValueError(
                "`ReLoRA` must have kernels of floats: rounded ones would lose what is merged. "
                f"Received: {integers[0]}, which is quantized. Call `quantize` after `fit`."
            )
        own = adapters.trained_adapters().values()
        variables = [variable for adapter in own for variable in adapter.trained.values()]
        first = int(inner_optimizer(task.optimizer).iterations)
        self._task, self.restarts = task, 0
        accumulated = inner_optimizer(task.optimizer).gradient_accumulation_steps or 1
        self._calls = self.every * accumulated
        adapters.shortened = Shortened(variables, self.every, self.warmup, first)
        adapters.forget_programs()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self._task is None:
            raise ValueError(
                "`ReLoRA` must be among the callbacks of `T5Gemma2Seq2SeqLM.fit`. Received: "
                f"a model of type {type(self.model).__name__}"
            )
        self._count = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._last = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._count += batch - self._last  # several, where a program runs several steps
        self._last = batch
        if self._count // self._calls > self.restarts:
            self.restarts += 1
            self._restart(self.model)  # which gives the variables their values on JAX, too

    def _restart(self, task):
        adapters = task.adapter_set
        for layer in adapters.layers().values():
            if adapters.trained in layer.adapters:
                restart(layer, adapters.trained)
        optimizer = inner_optimizer(task.optimizer)
        for variable in adapters.shortened.variables:
            for state in state_of(optimizer, variable):
                state.assign(ops.zeros(state.shape, dtype=state.dtype))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._task is not None:
            self._task.adapter_set.shortened = None
            self._task.adapter_set.forget_programs()
            self._task = None


class Shortened:
    """Makes the first steps after each restart shorter, whatever the optimizer is.

    Args:
        variables: list, of adapters.
        every: int. Steps between two restarts.
        warmup: int. How many steps are shortened.
        first: int. The optimizer's count of steps when training began.
    """

    def __init__(self, variables, every, warmup, first):
        self.variables, self.every, self.warmup, self.first = variables, every, warmup, first

    def __call__(self, optimizer, gradients, variables):
        """See `optimizer_steps.steps_changed`."""
        steps = ops.convert_to_tensor(optimizer.iterations) - self.first
        since = ops.cast(steps % self.every, "float32")
        ratio = ops.minimum(1.0, (since + 1.0) / (self.warmup + 1.0))
        ratio = ops.where(steps < self.every, 1.0, ratio)  # before the first restart
        before = [ops.copy(variable) for variable in self.variables]

        def after():
            for variable, old in zip(self.variables, before, strict=True):
                variable.assign(old + ratio * (ops.convert_to_tensor(variable) - old))

        return after


def prepare_restarts(callbacks, task):
    """Prepares each `ReLoRA` among the callbacks of `fit`.

    Args:
        callbacks: list, or a `keras.callbacks.CallbackList`.
        task: `T5Gemma2Seq2SeqLM`.
    """
    if task.adapter_set.shortened is not None:  # of a `fit` that was interrupted
        task.adapter_set.shortened = None
        task.adapter_set.forget_programs()
    for callback in getattr(callbacks, "callbacks", callbacks):
        if isinstance(callback, ReLoRA):
            callback.prepare(task)
