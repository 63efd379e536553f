"""`fit` where the model writes the texts that it learns from."""

import time

import keras
import numpy as np

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.preprocessing.sources import are_arrays, read_rows
from keras_t5gemma2.sharding.batch import row_parts
from keras_t5gemma2.training.checkpoint import with_places
from keras_t5gemma2.training.in_memory import InMemoryBatches
from keras_t5gemma2.training.sources import reading

# What `keras.Model.fit` has and has a meaning here.
_OPTIONS = ("epochs", "verbose", "callbacks", "initial_epoch", "steps_per_epoch")


def fit_on_samples(task, x, lesson, batch_size, shuffle, columns, validate, options):
    """Trains on what the task itself writes: each step draws samples, and learns from them once.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        x: rows as `fit` takes them; their targets are not read.
        lesson: function of rows and an epoch to the batch of a step, (x, y), and a dict of numbers.
        batch_size: int or `None`, rows of a step.
        shuffle: bool.
        columns: as `fit` has it.
        validate: function without arguments to a dict of numbers, at the end of an epoch.
        options: dict of what `keras.Model.fit` has.

    Returns:
        `keras.callbacks.History`.
    """
    _check(task, x, options)
    with one_warning(), reading():
        # Targets are for other ways to learn, and would be continued here.
        rows, _ = read_rows(x, Columns(columns), several_targets=True, reads_y=True)
        rows = [row._replace(decoder_text=None, number=n) for n, row in enumerate(rows)]
        task.preprocessor.check_rows(rows, training=False)
        _check_kinds(rows)
        batches = _batches(rows, batch_size or 8, shuffle)
        callbacks, is_saved = with_places(
            options.get("callbacks"), batches, options.get("steps_per_epoch")
        )
        if is_saved and lesson.keeps_an_average:
            raise ValueError(
                "With a `TrainingCheckpoint`, `anchor_decay` must be `None`: no file has the "
                "average that the model is held to. Received: both. Give a `reference`, or leave "
                "one of them out"
            )
        return _Run(task, lesson, batches, validate, options).run(callbacks)


def _check(task, x, options):
    if unknown := [name for name in options if name not in _OPTIONS]:
        raise TypeError(
            f"`fit` has no `{unknown[0]}` where the model writes what it learns from. Received: "
            f"{unknown[0]}={shown(options[unknown[0]])}. It has {', '.join(_OPTIONS)}, "
            "`batch_size`, `shuffle`, `columns` and `validation_data`"
        )
    if task.preprocessor is None or are_arrays(x):
        raise ValueError(
            "What a model writes is text: `fit` needs rows of text, and a preprocessor. "
            f"Received: preprocessor={shown(task.preprocessor)}, and {shown(x)}"
        )
    if processes.count() > 1 or row_parts() > 1:
        raise ValueError(
            "A model that writes what it learns from is trained on one device. Received: "
            f"{processes.count()} processes, with {row_parts()} parts of a batch each"
        )


def _check_kinds(rows):
    """Dialogues end where a turn does, and texts do not."""
    are_dialogues = [isinstance(row.encoder_text, Dialogue) for row in rows]
    if len(set(are_dialogues)) > 1:
        number = are_dialogues.index(not are_dialogues[0])
        raise ValueError(
            "All rows must be dialogues, or none, where a model learns from its own samples. "
            f"Received: row 0 is {'one' if are_dialogues[0] else 'none'}, and row {number} is "
            f"{'none' if are_dialogues[0] else 'one'}"
        )


def _batches(rows, batch_size, shuffle):
    def prepared(rows, *_, **__):
        return rows

    def take(indices):
        return ([rows[i] for i in indices],)

    return InMemoryBatches(take, np.arange(len(rows)), batch_size, shuffle, prepared)


class _Run:
    """One call of `fit`.

    Keras's own loop is given batches by an iterator, which it may ask for the next one before a
    step has ended: samples would be those of the model before. Here a step ends first.
    """

    def __init__(self, task, lesson, batches, validate, options):
        self.task, self.lesson, self.batches, self.validate = task, lesson, batches, validate
        self.verbose = options.get("verbose", "auto")
        self.epochs = counted("epochs", options.get("epochs", 1), 0)
        self.first = counted("initial_epoch", options.get("initial_epoch", 0), 0)
        most = options.get("steps_per_epoch")
        self.steps = batches.num_batches
        if most is not None:
            self.steps = min(self.steps, counted("steps_per_epoch", most, 1))

    def run(self, callbacks):
        task = self.task
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=self.verbose != 0,
                verbose=self.verbose,
                epochs=self.epochs,
                steps=self.steps,
                model=task,
            )
        callbacks.set_params({**(callbacks.params or {}), "lesson": self.lesson})  # `WARP` reads it
        compat.go_on_training(task)
        logs = {}
        callbacks.on_train_begin()
        # A `TrainingCheckpoint` knows where a run was interrupted.
        first = compat.first_epoch(task) or self.first
        for epoch in range(first, self.epochs):
            callbacks.on_epoch_begin(epoch)
            logs = self._epoch(epoch, callbacks)
            logs |= {f"val_{name}": value for name, value in self.validate().items()}
            callbacks.on_epoch_end(epoch, logs)
            if task.stop_training:
                break
        if self.epochs > first:
            task.optimizer.finalize_variable_values(task.trainable_weights)
        callbacks.on_train_end(logs)
        return task.history

    def _epoch(self, epoch, callbacks):
        means, tokens, start = {}, 0, time.perf_counter()
        late = self.batches.first_batch
        for step, rows in enumerate(list(self.batches)[late : self.steps]):
            callbacks.on_train_batch_begin(step)
            logs, count = self._step(rows, epoch)
            tokens += count
            for name, value in logs.items():
                means[name] = means.get(name, 0.0) + (value - means.get(name, 0.0)) / (step + 1)
            means["learning_rate"] = logs["learning_rate"]
            means["tokens_per_second"] = tokens / max(time.perf_counter() - start, 1e-9)
            callbacks.on_train_batch_end(step, dict(means))
            if self.task.stop_training:
                break
        return means

    def _step(self, rows, epoch):
        """The logs of a step, and how many tokens it learned from."""
        task = self.task
        x, y, logs = self.lesson(rows, epoch)
        rate = float(keras.ops.convert_to_numpy(task.optimizer.learning_rate))
        keras.Model.train_on_batch(task, x, y)  # the batch is prepared already
        tokens = int(x["encoder_padding_mask"].sum() + x["decoder_padding_mask"].sum())
        logs = {name: float(value) for name, value in logs.items()}
        return {**logs, "learning_rate": rate}, tokens
