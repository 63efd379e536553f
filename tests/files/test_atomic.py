"""A directory is written whole or not at all, and nothing of the user's is lost."""

import os
import pathlib

import pytest

from keras_t5gemma2.files.atomic import atomic_directory

pytestmark = pytest.mark.once


def contents(directory):
    """Every file below a directory with its text, and every empty directory."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(directory))] = path.read_text()
        elif not any(path.iterdir()):
            found[str(path.relative_to(directory))] = None
    return found


def write(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


OLD = {"config.json": "old", "model.h5": "old", "assets/vocabulary": "old"}
NEW = {"config.json": "new", "model.h5": "new", "assets/merges": "new", "deep/er/file": "new"}
NOTES = {"notes.txt": "mine", "assets/notes.txt": "mine"}


def test_fresh_directory_appears_whole(tmp_path):
    path = tmp_path / "some" / "where"
    with atomic_directory(path) as temporary:
        write(temporary, NEW)
        assert not path.exists()
    assert contents(tmp_path) == {f"some/where/{name}": text for name, text in NEW.items()}


def test_fresh_directory_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    with atomic_directory(tmp_path / "preset") as temporary:
        write(temporary, NEW)
    assert (tmp_path / "preset").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_files_of_the_user_stay(tmp_path):
    write(tmp_path, {**OLD, **NOTES})
    with atomic_directory(tmp_path) as temporary:
        write(temporary, NEW)
    assert contents(tmp_path) == {**OLD, **NOTES, **NEW}


def test_the_directory_itself_stays(tmp_path):
    # Whoever stands in it, or has it open, must not be left in a deleted one.
    write(tmp_path, OLD)
    before = tmp_path.stat().st_ino
    with atomic_directory(tmp_path) as temporary:
        write(temporary, NEW)
    assert tmp_path.stat().st_ino == before


def test_replaced_patterns_go(tmp_path):
    write(tmp_path, {**OLD, **NOTES, "model_00001.h5": "old", "model_best.h5": "mine"})
    with atomic_directory(tmp_path, replaces=("model_[0-9]*.h5", "gone.json")) as temporary:
        write(temporary, NEW)
    assert contents(tmp_path) == {**OLD, **NOTES, **NEW, "model_best.h5": "mine"}


def test_recursive_pattern_spares_the_new_files(tmp_path):
    write(tmp_path, {"a/model.h5": "old"})
    with atomic_directory(tmp_path, replaces=("**/*.h5",)) as temporary:
        write(temporary, {"b/model.h5": "new"})
    assert contents(tmp_path) == {"b/model.h5": "new", "a": None}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [{}, {**OLD, **NOTES}])
def test_failure_while_writing_changes_nothing(tmp_path, error, old):
    path = tmp_path / "preset"
    write(path, old)
    with pytest.raises(error), atomic_directory(path) as temporary:
        write(temporary, NEW)
        raise error
    assert path.exists() == bool(old)
    assert contents(tmp_path) == {f"preset/{name}": text for name, text in old.items()}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("call", range(7))
def test_failure_of_any_move_changes_nothing(tmp_path, monkeypatch, error, is_moved, call):
    """Three files move away and four into place; each move fails once, before or after it."""
    old = {**OLD, **NOTES, "model_1.h5": "old"}
    write(tmp_path, old)
    rename, calls = os.rename, []

    def failing(origin, target):
        calls.append(origin)
        if len(calls) != call + 1:
            rename(origin, target)
            return
        if is_moved:
            rename(origin, target)
        raise error

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(error), atomic_directory(tmp_path, ("model_*.h5",)) as temporary:
        write(temporary, NEW)
    assert contents(tmp_path) == old


def test_config_is_the_first_to_go_and_the_last_to_come(tmp_path, monkeypatch):
    write(tmp_path, OLD)
    rename, seen = os.rename, []

    def watching(origin, target):
        rename(origin, target)
        seen.append((tmp_path / "config.json").exists())

    monkeypatch.setattr(os, "rename", watching)
    with atomic_directory(tmp_path) as temporary:
        write(temporary, NEW)
    assert seen == [False] * 5 + [True]


def test_files_that_cannot_be_put_back_are_kept(tmp_path, monkeypatch):
    write(tmp_path, OLD)
    rename = os.rename

    def breaking(origin, target):
        if pathlib.Path(origin).name == "model.h5":
            monkeypatch.setattr(os, "rename", always_failing)
        rename(origin, target)

    def always_failing(origin, target):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "rename", breaking)
    with pytest.raises(OSError) as error, atomic_directory(tmp_path) as temporary:
        write(temporary, NEW)
    found = contents(tmp_path)
    assert sorted(found.values()) == ["old", "old", "old"]
    for name in ("config.json", "model.h5"):
        (kept,) = (path for path in found if path.endswith(f"old/{name}"))
        assert f"{name} could not be put back. It is now {tmp_path / kept}" in str(
            error.value.__notes__
        )


def test_link_to_a_file_elsewhere_is_replaced_not_written_through(tmp_path):
    write(tmp_path, {"cache/blob": "shared", "preset/other": "mine"})
    (tmp_path / "preset" / "config.json").symlink_to(tmp_path / "cache" / "blob")
    with atomic_directory(tmp_path / "preset") as temporary:
        write(temporary, NEW)
    assert (tmp_path / "cache" / "blob").read_text() == "shared"
    assert (tmp_path / "preset" / "config.json").read_text() == "new"


def test_linked_directory_is_written_where_it_is(tmp_path):
    write(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "link") as temporary:
        write(temporary, NEW)
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {**OLD, **NEW}


def test_file_in_the_way(tmp_path):
    write(tmp_path, {"preset": "mine"})
    with pytest.raises(NotADirectoryError, match="preset"), atomic_directory(tmp_path / "preset"):
        pass
    assert contents(tmp_path) == {"preset": "mine"}


@pytest.mark.parametrize(
    "old, new", [("assets", "assets/merges"), ("config.json/file", "config.json")]
)
def test_file_and_directory_do_not_displace_each_other(tmp_path, old, new):
    write(tmp_path, {old: "mine"})
    with pytest.raises(NotADirectoryError, match=new), atomic_directory(tmp_path) as temporary:
        write(temporary, {new: "new"})
    assert contents(tmp_path) == {old: "mine"}
