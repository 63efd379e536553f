"""Disks that are full, directories that two processes write to, and paths that begin with `~`."""

import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import traceback

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, TrainingCheckpoint
from keras_t5gemma2.files import disk
from keras_t5gemma2.files.atomic import atomic_directory

pytestmark = pytest.mark.once

# Saves where there is room, and where there is none any more, with and without a check before.
_ON_A_FULL_DISK = """
import pathlib, shutil, sys
import keras
from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.files import disk
folder = pathlib.Path(sys.argv[1])
lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.save_to_preset(folder / "first")

def refused(save, *arguments):
    before = sorted(path.name for path in folder.iterdir())
    try:
        save(*arguments)
    except OSError as error:
        assert error.errno == 28, error
    else:
        raise AssertionError("it was saved")
    assert sorted(path.name for path in folder.iterdir()) == before

def all_refused():
    refused(lm.save_to_preset, folder / "second")
    refused(lm.save_to_preset, folder / "first")
    refused(lm.save_to_keras_hub_preset, folder / "third")
    refused(lm.export_to_transformers, folder / "fourth")
    refused(lm.save_weights, folder / "w.weights.h5")
    refused(lm.save, folder / "task.keras")

all_refused()
if "late" in sys.argv:  # the room goes away while the file is written
    usage = shutil.disk_usage
    disk.check_room = lambda path, num_bytes: None
    all_refused()
T5Gemma2Seq2SeqLM.from_preset(str(folder / "first"))
print("alive")
"""


def _run(code, *arguments):
    """Runs code in another process, which may die."""
    if keras.config.backend() == "torch" and hasattr(os, "fork"):
        return _run_forked(code, arguments)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def _run_forked(code, arguments):
    """Without importing anything again: torch's threads, unlike those of others, can do without."""
    with tempfile.TemporaryFile("w+") as output:
        if child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            text = output.read()
            return subprocess.CompletedProcess(code, status, text, text)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        sys.argv = ["-c", *map(str, arguments)]
        status = 1
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                try:
                    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
                    status = 0
                except BaseException:
                    traceback.print_exc()
            output.flush()
        finally:
            os._exit(status)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB, which the embedded preset fits into once."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=False)


def test_a_full_disk_is_an_error_and_no_process_dies(small_disk):
    result = _run(_ON_A_FULL_DISK, small_disk, "late")
    assert result.returncode == 0 and "alive" in result.stdout, result.stderr[-3000:]


@pytest.mark.parametrize("save", ["save_to_preset", "save_to_keras_hub_preset"])
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch, save):
    import h5py

    lm = small_task().backbone
    getattr(lm, save)(tmp_path / "m")
    before = {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="must have room for what is saved") as caught:
        getattr(lm, save)(tmp_path / "m")
    assert caught.value.errno == errno.ENOSPC
    assert {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: _Free)
    lm = small_task()
    for save in (
        lambda: lm.save_weights(tmp_path / "a.weights.h5"),
        lambda: lm.save(tmp_path / "a.keras"),
        lambda: lm.save_to_preset(tmp_path / "m"),
    ):
        with pytest.raises(OSError, match="bytes, and 1,000 are free"):
            save()
    assert list(tmp_path.iterdir()) == []


class _Free:
    free = 1000


def test_two_writers_of_a_directory_are_told_apart(tmp_path):
    with (
        pytest.raises(FileExistsError, match="by one at a time"),
        atomic_directory(tmp_path / "new") as one,
    ):
        (one / "config.json").write_text("one")
        with atomic_directory(tmp_path / "new") as other:
            (other / "config.json").write_text("other")
    assert (tmp_path / "new" / "config.json").read_text() == "other"

    failures = []

    def write():
        try:
            with atomic_directory(tmp_path / "new") as again:
                (again / "config.json").write_text("again")
        except FileExistsError as error:
            failures.append(error)

    with atomic_directory(tmp_path / "new") as first:
        (first / "config.json").write_text("first")
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert (tmp_path / "new" / "config.json").read_text() == "first"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_home_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    lm = small_task()
    lm.enable_lora(rank=2, target=["query"])
    lm.save_adapter("~/a.safetensors")
    lm.load_adapter("~/a.safetensors")
    lm.save_peft_adapter("~/peft")
    lm.load_adapter("~/peft", name="second")
    samples = lm.sample_logits(SMALL_ROWS, num_samples=2)
    samples.save("~/samples.npz")
    assert len(type(samples).load("~/samples.npz")) == len(samples)
    for name in ("second", "default"):
        lm.remove_adapter(name)
    lm.save_to_preset("~/m")
    lm = T5Gemma2Seq2SeqLM.from_preset("~/m")
    lm.compile(optimizer="sgd")
    lm.backbone.save_to_keras_hub_preset("~/hub")
    T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").export_to_transformers("~/transformers")
    lm.backbone.save_to_preset("~/backbone")
    lm.preprocessor.save_to_preset("~/preprocessor")
    lm.preprocessor.tokenizer.save_to_preset("~/tokenizer")
    lm.save_weights("~/a.weights.h5")
    lm.load_weights("~/a.weights.h5")
    lm.save("~/task.keras")
    keep = TrainingCheckpoint("~/run", delete_checkpoint=False)
    lm.fit(SMALL_ROWS, callbacks=[keep], verbose=0)
    found = {path.name for path in (tmp_path / "home").iterdir()}
    assert found >= {"m", "hub", "transformers", "backbone", "preprocessor", "tokenizer", "run"}
    assert found >= {"a.safetensors", "peft", "samples.npz", "a.weights.h5", "task.keras"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_weights_in_shards_and_files_that_are_not_to_be_overwritten(tmp_path, monkeypatch):
    lm = small_task()
    lm.save_weights(tmp_path / "a.weights.json", max_shard_size=0.0001)
    other = small_task(seed=1)
    other.load_weights(tmp_path / "a.weights.json")
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(model.weights[0]) for model in (lm, other))
    )
    path = pathlib.Path(tmp_path, "task.keras")
    lm.save(path)
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    before = path.read_bytes()
    other.save(path, overwrite=False)
    assert path.read_bytes() == before
