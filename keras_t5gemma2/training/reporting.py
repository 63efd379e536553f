"""What `fit`, `evaluate` and `predict` say while their steps are compiled."""

import contextlib
import contextvars

import keras

from keras_t5gemma2 import compiling, kernels

# In `fit`, `evaluate` and `predict`: the steps being compiled, pairs of a name and a time.
_steps = contextvars.ContextVar("steps", default=None)


@contextlib.contextmanager
def reporting_steps(task, callbacks, verbose):
    """Reports what is compiled inside. Gives the callbacks that Keras is to call.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        callbacks: as `keras.Model.fit` has them.
        verbose: as `keras.Model.fit` has it; 0 for no reports.
    """
    kernels.check_process(task.made_in_process)
    if _steps.get() is not None:  # `fit` evaluates.
        yield callbacks
        return
    steps = []
    token = _steps.set(steps)
    try:
        with compiling.told(verbose):
            yield _with(callbacks, _Ending(steps))
    finally:
        _steps.reset(token)


def step_begins(what, data):
    """To be called where a step begins, which reports it if it is being traced.

    Args:
        what: string.
        data: tuple of what the step takes.
    """
    steps = _steps.get()
    if steps is None or not kernels.is_traced(data):
        return
    if what not in [name for name, _ in steps]:
        parts = data if isinstance(data, tuple) else (data,)
        dicts = [part for part in parts if isinstance(part, dict)]
        steps.append((what, compiling.began_compiling(what, compiling.sizes_of(dicts))))


class _Ending(keras.callbacks.Callback):
    """Reports the end of compiling, which is when the step that needed it has run."""

    async_safe = True  # steps do not wait for it

    def __init__(self, steps):
        super().__init__()
        self._steps, self._is_told = steps, compiling.is_told()

    def _end(self, batch, logs=None):
        # Keras may call it in a thread of its own, which knows of no context, or in two at a time.
        with contextlib.suppress(IndexError), compiling.told(self._is_told):
            while self._steps:
                compiling.ended_compiling(*self._steps.pop())

    on_train_batch_end = on_test_batch_end = on_predict_batch_end = _end


def _with(callbacks, callback):
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.append(callback)
        return callbacks
    if callbacks is None:
        return [callback]
    return [*(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]), callback]
