"""SIGKILL while a checkpoint or a converted model is written, and the same command again."""

import contextlib
import os
import shutil
import signal

import convert
import keras
import pytest
from resumed_runs import Killed, new_task, run

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, TrainingCheckpoint
from keras_t5gemma2.cli import convert as conversion
from keras_t5gemma2.files import safetensors_writer
from keras_t5gemma2.training.checkpoint_states import newest

pytestmark = [
    pytest.mark.once,
    # JAX and TensorFlow have threads that a fork leaves behind.
    pytest.mark.skipif(
        not hasattr(os, "fork") or keras.config.backend() != "torch", reason="forks with torch"
    ),
]

# Where a process is killed: a function of a module, and how often it was called before.
PLACES = {
    "writing": (safetensors_writer, "_pieces", 1),
    "written": (os, "rename", 0),
    "removing": (shutil, "rmtree", 0),
    "removed a file": (os, "unlink", 1),
    "removed all files": (os, "rmdir", 0),
}


def killed(call, place):
    """Calls a function in a process that is killed at a place; whether it got there."""
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL
    module, name, before = place
    original, count = getattr(module, name), []

    def counting(*args, **kwargs):
        if len(count) == before:
            os.kill(os.getpid(), signal.SIGKILL)
        count.append(name)
        return original(*args, **kwargs)

    setattr(module, name, counting)
    with contextlib.suppress(BaseException):
        call()
        os._exit(0)
    os._exit(1)


# Training


class KilledCheckpoint(TrainingCheckpoint):
    """Dies in another process, since torch's gradients do not come through a fork."""

    def __init__(self, directory, place, at):
        super().__init__(directory, save_freq=2)
        self.place, self.at = place, at

    def _save(self, epoch, step):
        if (epoch, step) != self.at:
            super()._save(epoch, step)
            return
        assert killed(lambda: super(KilledCheckpoint, self)._save(epoch, step), self.place)
        raise Killed


@pytest.fixture(scope="module")
def uninterrupted():
    return run(new_task(False), epochs=2)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[pytest.mark.slow] * (place == "removed a file"))
        for place in PLACES
    ],
)
def test_a_checkpoint(tmp_path, uninterrupted, place):
    at = (1, 0)
    directory = tmp_path / "run"
    run(new_task(False), [KilledCheckpoint(directory, PLACES[place], at)], epochs=2)
    is_old = place in ("writing", "written")
    found = newest(directory).name
    assert found == ("epoch_000000_step_000000004" if is_old else "epoch_000001_step_000000000")
    callback = TrainingCheckpoint(directory, save_freq=2, delete_checkpoint=False)
    losses = run(new_task(False, seed=1), [callback], epochs=2)
    assert losses == pytest.approx(uninterrupted[-len(losses) :], rel=1e-6)
    left = [path.name for path in directory.iterdir()]
    assert left == ["epoch_000002_step_000000000"]


@pytest.mark.parametrize(
    "place",
    ["removing", pytest.param("removed a file", marks=pytest.mark.slow), "removed all files"],
)
def test_the_end_of_a_run(tmp_path, place):
    """What is left does not stop the next run, which begins anew or where the last one ended."""

    class Killing(TrainingCheckpoint):
        def on_train_end(self, logs=None):
            assert killed(lambda: super(Killing, self).on_train_end(), PLACES[place])

    run(new_task(False), [Killing(tmp_path)], epochs=1)
    assert newest(tmp_path) is None
    assert len(run(new_task(False), [TrainingCheckpoint(tmp_path)], epochs=1)) == 5
    assert not list(tmp_path.iterdir())


# Converting


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:keras-hub.s T5Gemma 2")
@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("transformers", "writing"),
        pytest.param("transformers", "written", marks=pytest.mark.slow),
        ("keras", "written"),
    ],
)
def test_a_conversion(tmp_path, to, place):
    """The target is not there, and the same command writes it."""
    target = tmp_path / "new"
    command = ["t5gemma2_tiny", str(target), "--to", to, "--text-only", "--quiet"]
    assert killed(lambda: convert.main(command), PLACES[place])
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".new.")
    assert convert.main(command) == 0
    T5Gemma2Seq2SeqLM.from_preset(target)


def test_a_conversion_that_has_come_to_its_end(tmp_path):
    """Killed once the target is there: it is whole, and the command says that it is there."""
    target = tmp_path / "new"
    command = ["t5gemma2_tiny", str(target), "--text-only", "--quiet"]
    assert killed(lambda: convert.main(command), (conversion.time, "monotonic", 1))
    assert convert.main(command) == 1
    T5Gemma2Seq2SeqLM.from_preset(target)
