"""Names that no hub has, places that cannot be written, and processes that are killed."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess

import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Tokenizer,
    TrainingCheckpoint,
)
from keras_t5gemma2.files.atomic import atomic_directory

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "name",
    [
        *("", "a", "a/", "/a", "a/b/c", "../../etc", "../etc", "a/..", "./a", "a/b/../../c"),
        *("a/b\0", "a/b?x=1", "a/b@main", "a/b#c", "a b/c", " a/b", "a/b\n", "a/b%2e%2e", "a\\b/c"),
        *("ä/b", "a" * 5000, "a/" + "b" * 5000, "//host/a", "~/a", "file:///etc"),
    ],
)
@pytest.mark.parametrize("scheme", ["hf://", "kaggle://"])
def test_names_that_no_hub_has(monkeypatch, tmp_path, scheme, name):
    import huggingface_hub
    import kagglehub

    def reached(*args, **kwargs):
        raise AssertionError(f"the hub was asked for {args}")

    for module, call in [
        (huggingface_hub, "hf_hub_download"),
        (huggingface_hub, "snapshot_download"),
        (kagglehub, "model_download"),
    ]:
        monkeypatch.setattr(module, call, reached)
    for cls in (T5Gemma2Seq2SeqLM, T5Gemma2Backbone, T5Gemma2Tokenizer):
        rule = "must have the form (hf|kaggle)://organization|must be a name, a handle"
        with pytest.raises((ValueError, TypeError), match=rule) as e:
            cls.from_preset(scheme + name)
        assert len(str(e.value)) < 300


def test_paths_that_no_file_has():
    for name in ("a\0b", "a" * 5000, "/".join("a" * 3000)):
        rule = "must be a name, a handle"
        with pytest.raises((FileNotFoundError, TypeError), match=rule) as caught:
            T5Gemma2Seq2SeqLM.from_preset(name)
        assert len(str(caught.value)) < 1000


WRITES = [
    lambda lm, path: lm.save_to_preset(path / "m"),
    lambda lm, path: lm.save_to_preset(path),
    lambda lm, path: lm.save_to_preset(path / "some" / "where"),
    lambda lm, path: lm.backbone.save_to_keras_hub_preset(path / "m"),
    lambda lm, path: lm.preprocessor.tokenizer.save_to_preset(path / "m"),
    lambda lm, path: lm.save_weights(path / "w.weights.h5"),
    lambda lm, path: lm.save(path / "t.keras"),
    lambda lm, path: lm.fit(SMALL_ROWS, callbacks=[TrainingCheckpoint(path / "run")], verbose=0),
    lambda lm, path: lm.fit(SMALL_ROWS, callbacks=[TrainingCheckpoint(path)], verbose=0),
]


@pytest.fixture
def read_only(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=False)


@pytest.mark.filterwarnings("ignore:keras-hub.s T5Gemma 2")
@pytest.mark.parametrize("number", range(len(WRITES)))
def test_a_read_only_file_system(read_only, number):
    lm = small_task()
    iterations = int(lm.optimizer.iterations)
    with pytest.raises(OSError, match="must go to where this user may write") as caught:
        WRITES[number](lm, read_only)
    assert caught.value.errno == errno.EROFS
    assert str(caught.value.filename).startswith(str(read_only))
    assert "/." not in str(caught.value.filename)
    assert int(lm.optimizer.iterations) == iterations  # no step before the error


def test_a_read_only_file_system_of_adapters(read_only):
    lm = small_task()
    lm.enable_lora(rank=2, target=["query"])
    for save in (
        lambda: lm.save_adapter(read_only / "a.safetensors"),
        lambda: lm.save_peft_adapter(read_only / "peft"),
    ):
        with pytest.raises(OSError, match="must go to where this user may write"):
            save()


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_directory_of_somebody_else(tmp_path, monkeypatch, call):
    lm = small_task()

    def refused(path, *args, **kwargs):
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    original = getattr(os, call)
    monkeypatch.setattr(os, call, refused)
    with pytest.raises(PermissionError, match="must go to where this user may write"):
        lm.save_to_preset(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# Killed


def killed_at_a_move(path, new, moves):
    """Saves files in a process that is killed where it has moved so many of them."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    rename, done = os.rename, []

    def counting(origin, target):
        if len(done) == moves:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(origin, target)
        done.append(origin)

    os.rename = counting
    with atomic_directory(path, ("model_*.h5",)) as temporary:
        for file in new.iterdir():
            (temporary / file.name).write_bytes(file.read_bytes())
    os._exit(0)


@pytest.mark.parametrize("moves", [0, 1, 2, 4])
def test_a_save_that_is_killed(tmp_path, moves):
    """What was there loads, or the error says where it is and what to do; saving goes on."""
    lm = small_task()
    path = tmp_path / "m"
    lm.backbone.save_to_preset(path)
    lm.backbone.save_to_preset(tmp_path / "new")
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    assert killed_at_a_move(path, tmp_path / "new", moves) == signal.SIGKILL
    if moves == 0:
        T5Gemma2Backbone.from_preset(path)
    else:
        with pytest.raises(FileNotFoundError, match="a save was killed .* move them") as caught:
            T5Gemma2Backbone.from_preset(path)
        (kept,) = path.glob(".m.*/old")
        assert str(kept) in str(caught.value)
        again = tmp_path / "by_hand" / "m"
        shutil.copytree(path, again)
        for file in (again / kept.relative_to(path)).iterdir():
            shutil.move(file, again / file.name)
        assert {n: (again / n).read_bytes() for n in before} == before
        T5Gemma2Backbone.from_preset(again)
    lm.backbone.save_to_preset(path)
    T5Gemma2Backbone.from_preset(path)
    assert {p.name for p in path.iterdir() if p.is_file()} == set(before)


def test_a_fresh_save_that_was_killed_does_not_disturb(tmp_path):
    stale = tmp_path / ".m.0123abcd" / "new"
    stale.mkdir(parents=True)
    (stale / "config.json").write_text("half")
    with pytest.raises(FileNotFoundError, match="must be a name, a handle"):
        T5Gemma2Backbone.from_preset(tmp_path / "m")
    with atomic_directory(tmp_path / "m") as directory:
        (directory / "config.json").write_text("whole")
    assert pathlib.Path(tmp_path, "m", "config.json").read_text() == "whole"
