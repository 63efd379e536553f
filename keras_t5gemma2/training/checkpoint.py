"""Training that is interrupted and goes on as if it had not been."""

import json
import shutil
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.disk import check_writable, local_path
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.safetensors_writer import NewTensor, shards_of, write_safetensors
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.kernels.runtime.host_memory import take_over
from keras_t5gemma2.messages import shown, shown_path
from keras_t5gemma2.training.checkpoint_states import (
    STATE_FILE,
    left_by_killed_processes,
    newest,
    place_of,
    read_state,
    remove_state,
    whole_states,
)
from keras_t5gemma2.typing import PathLike

_MAX_BYTES_OF_A_FILE = 5 << 30


class TrainingCheckpoint(keras.callbacks.Callback):
    """Saves the state of `fit` as training goes on, and takes it up where there is one.

    A run that is killed and started again gives the losses of one that was not, on the same
    backend and machine: weights, the optimizer's state, the states of dropout, the metrics of the
    epoch so far, and the place in the order of the rows all come back. Frozen weights are
    not saved: of LoRA only the adapter is. `fit` must get the same arguments again, and the model
    must be made in the same way.

    `keras.callbacks.BackupAndRestore` begins the epoch anew in which it was interrupted, with
    other batches.

    With several processes each of them has this callback, of a directory that all of them see;
    the first one writes.

    Args:
        directory: path. Each state is a directory in it, whole or not there at all; the newest one
            is kept.
        save_freq: "epoch", or an int: also after so many steps.
        delete_checkpoint: bool. Whether nothing is left there once training has come to its end.

    Rows in memory come in the same order. A data set that is iterated anew must give the same
    batches in the same epoch; what the interrupted epoch has seen of them is skipped. What draws
    at random while rows are prepared, as `T5Gemma2DenoisingPreprocessor` and a live teacher of
    `Distillation` do, draws anew. Callbacks with a state of their own, such as `EarlyStopping`,
    begin anew, and `History` has the epochs of the last run.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> keep = keras_t5gemma2.TrainingCheckpoint(directory, delete_checkpoint=False)
    >>> history = lm.fit(rows, epochs=2, callbacks=[keep], verbose=0)
    >>> [path.name for path in directory.iterdir()]
    ['epoch_000002_step_000000000']
    """

    batches: Any = None  # the `Batches` of `fit`, which it gives to the callback

    def __init__(
        self,
        directory: PathLike,
        save_freq: int | Literal["epoch"] = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        is_number = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (is_number and save_freq > 0):
            raise ValueError(
                '`save_freq` must be "epoch" or a positive number of steps. Received: '
                f"save_freq={shown(save_freq)}"
            )
        self.directory = local_path(directory)
        self.save_freq, self.delete_checkpoint = save_freq, delete_checkpoint
        self._epoch = self._start = 0  # the epoch that runs, and the batch that it began with
        self._counters: Sequence[
            tuple[Any, Any]
        ] = ()  # and values, as they were after the last batch
        self._of_metrics = None  # values to be put back once Keras has reset the metrics

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.batches is None:
            raise ValueError(
                "`TrainingCheckpoint` must be among the callbacks of `T5Gemma2Seq2SeqLM.fit`, "
                f"which knows the order of the rows. Received: a model of type {type(self.model)}"
            )
        if processes.index() == 0:
            check_writable(self.directory)  # before an epoch is lost
        found = newest(self.directory)
        place = (-1, -1) if found is None else place_of(found)
        places = processes.everywhere(place)
        if (places != places[0]).any():
            raise ValueError(
                "All processes must see the same checkpoints. Received: "
                f"directory={shown_path(self.directory)}, where their newest ones are of (epoch, "
                "step) "
                f"{places.tolist()}. Give a directory on a file system that they share"
            )
        if found is not None:
            self._restore(found)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch, self._start = epoch, self.batches.first_batch
        if self._of_metrics is not None:
            _assign(self.model.metrics_variables, self._of_metrics)
            self._of_metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = self._start + batch + 1
        if self._start > 0 and keras.config.backend() == "tensorflow":
            self._counters = [(v, keras.ops.convert_to_numpy(v)) for v in self._counting()]
        if self.save_freq == "epoch" or step % self.save_freq or step == self.batches.num_batches:
            return
        self._save(self._epoch, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # An epoch that began late ends where a step finds no batch. TensorFlow has then run what
        # of this step needs none.
        for variable, value in self._counters:
            variable.assign(value)
        self._counters = ()
        self._save(epoch + 1, 0)

    def _counting(self):
        """The variables that a step changes whatever its batch is."""
        weights = {id(weight) for weight in self.model.weights}
        others = [v for v in self._variables()["model"] if id(v) not in weights]
        return [*others, self.model.optimizer.iterations]

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        compat.set_first_epoch(self.model, None)  # of the next `fit`
        if self.delete_checkpoint and processes.index() == 0:
            for path in left_by_killed_processes(self.directory):
                shutil.rmtree(path)
            for path in whole_states(self.directory):
                remove_state(path)

    # Writing ----------------------------------------------------------------------------------

    def _save(self, epoch, step):
        groups, random_states = self._variables(), processes.random_states()
        tensors = [t for name, group in groups.items() for t in _new_tensors(name, group)]
        if processes.index() > 0:
            for shard in shards_of(tensors, _MAX_BYTES_OF_A_FILE).values():
                for tensor in shard:
                    tensor.read()  # where the first process needs the others to do so
        else:
            state = {
                **{"epoch": epoch, "step": step, "random_states": random_states},
                "seed": getattr(self.batches, "seed", None),
            }
            old = whole_states(self.directory)
            for path in left_by_killed_processes(self.directory):
                shutil.rmtree(path)
            target = self.directory / f"epoch_{epoch:06}_step_{step:09}"
            with atomic_directory(target, written_last=STATE_FILE) as temporary:
                write_safetensors(temporary, tensors, _MAX_BYTES_OF_A_FILE)
                (temporary / STATE_FILE).write_text(json.dumps(state))
            for path in old:
                if path != target:
                    remove_state(path)
        processes.wait("TrainingCheckpoint")

    def _variables(self):
        """What changes in training, by groups."""
        model = self.model
        frozen = {id(weight) for weight in model.weights if not weight.trainable}
        of_model = [variable for variable in model.variables if id(variable) not in frozen]
        of_metrics = {id(variable) for variable in model.metrics_variables}
        return {
            "model": [variable for variable in of_model if id(variable) not in of_metrics],
            "optimizer": model.optimizer.variables,
            "metrics": model.metrics_variables,
        }

    # Reading ----------------------------------------------------------------------------------

    def _restore(self, path):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        state = read_state(path)
        groups, tensors = self._variables(), read_safetensors(path)
        for name, group in groups.items():
            _check_fits(path, name, group, tensors)
        for name in ("model", "optimizer"):
            _assign(groups[name], [tensors[key].read() for key in _keys(name, groups[name])])
        if state["step"] > 0:  # else they are those of the epoch before
            self._of_metrics = [tensors[key].read() for key in _keys("metrics", groups["metrics"])]
        compat.set_first_epoch(self.model, state["epoch"])
        self.batches.first_batch = state["step"]
        processes.set_random_states(state["random_states"])
        if state["seed"] is not None:
            self.batches.seed = state["seed"]


class EpochNumbers(keras.callbacks.Callback):
    """Tells the batches of `fit` which epoch it is."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.batches.first_batch = 0


def with_places(callbacks, batches, steps_per_epoch):
    """The callbacks of `fit`, with those that know the place in the order of the batches.

    Args:
        callbacks: as `keras.Model.fit` has them.
        batches: `Batches`.
        steps_per_epoch: int or `None`, as `keras.Model.fit` has it.

    Returns:
        The callbacks, and whether a `TrainingCheckpoint` is among them.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.append(EpochNumbers(batches))
        given = callbacks.callbacks
    else:
        given = [] if callbacks is None else keras.tree.flatten(callbacks)
        given = callbacks = [*given, EpochNumbers(batches)]
    savers = [callback for callback in given if isinstance(callback, TrainingCheckpoint)]
    if savers and steps_per_epoch is not None:
        raise ValueError(
            "With a `TrainingCheckpoint`, an epoch must be all of the data. Received: "
            f"steps_per_epoch={shown(steps_per_epoch)}. Leave it out"
        )
    for callback in savers:
        callback.batches = batches
    return callbacks, bool(savers)


def _keys(name, variables):
    return [f"{name}/{number}" for number in range(len(variables))]


def _new_tensors(name, variables):
    for key, variable in zip(_keys(name, variables), variables, strict=True):
        dtype = np.dtype(keras.backend.standardize_dtype(variable.dtype))
        yield NewTensor(
            key, tuple(variable.shape), dtype, lambda v=variable: processes.whole(v.value)
        )


def _check_fits(path, name, variables, tensors):
    theirs = {key: t.shape for key, t in tensors.items() if key.startswith(f"{name}/")}
    shapes = map(lambda variable: tuple(variable.shape), variables)
    ours = dict(zip(_keys(name, variables), shapes, strict=True))
    if theirs == ours:
        return
    differs = min(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    raise ValueError(
        "A run is taken up with the model and the optimizer that it was begun with. Received: "
        f"{path}, whose {differs} has the shape {theirs.get(differs)} where this model's has "
        f"{ours.get(differs)}. Make them in the same way, or give another directory"
    )


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(take_over(np.array(value)))
