"""Files and directories that are written whole or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil

from keras_t5gemma2.files.disk import check_writable, local_path, naming

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def atomic_directory(path, replaces=(), written_last="config.json"):
    """Gives a temporary directory to write into, whose files come to `path` all at once.

    Where nothing is at `path`, the directory takes its place in one step. Where a directory is,
    its files make way for the new ones of the same name, and all others stay: they are the
    user's. If the `with` block or the change fails, or is interrupted, everything at `path` is
    as before and the temporary directory is gone.

    Files of a directory cannot be exchanged in one step, so `written_last` is the first to go
    and the last to come: a process that is killed in between leaves a directory without it,
    which no reader takes for a whole one, and the old files in a hidden directory beside the new.

    Args:
        path: path of the directory; parents are made as needed.
        replaces: glob patterns, relative to `path`, of files that go even if there are no new
            ones of the same name, such as the shards of an earlier save.
        written_last: name of the file without which the directory is not read.

    Yields:
        The `pathlib.Path` of the temporary directory.

    Raises:
        NotADirectoryError: a file is in the way.
        FileExistsError: another process writes to the directory, or has made it meanwhile.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "preset"
    >>> with atomic_directory(path) as temporary:
    ...     _ = (temporary / "config.json").write_text("{}")
    ...     path.exists()
    False
    >>> [file.name for file in path.iterdir()]
    ['config.json']
    """
    path = local_path(path).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"A directory cannot be written where a file is. Received: {path}")
    is_fresh = not path.exists()
    # On the same file system as its destination: beside a directory that is to come, inside one
    # that is there, which may be a file system of its own.
    parent = path.parent if is_fresh else path
    temporary = parent / f".{path.name}.{secrets.token_hex(4)}"
    check_writable(parent)
    try:
        with naming(path):
            parent.mkdir(parents=True, exist_ok=True)
            (temporary / "new").mkdir(parents=True)
        with contextlib.nullcontext() if is_fresh else _only_writer(path):
            yield temporary / "new"
            if is_fresh:
                _rename_to_fresh(temporary / "new", path)
            else:
                _exchange(path, temporary, replaces, written_last)
    except BaseException:
        shutil.rmtree(temporary / "new", ignore_errors=True)
        # It still holds old files, if they could not be put back.
        with contextlib.suppress(OSError):
            temporary.rmdir()
        raise
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path):
    """Gives a temporary path to write to, whose file comes to `path` in one step, or not at all.

    Args:
        path: path of the file; parents are made as needed.

    Yields:
        The `pathlib.Path` of the temporary file.

    Raises:
        IsADirectoryError: a directory is in the way.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "file"
    >>> with atomic_file(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text()
    'whole'
    """
    path = local_path(path).resolve()
    if path.is_dir():
        raise IsADirectoryError(f"A file cannot be written where a directory is. Received: {path}")
    check_writable(path.parent)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # With the ending of its name, by which some writers choose the format.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def left_by_a_killed_save(path):
    """The directories with old files of saves to `path` that were killed as they exchanged them.

    Args:
        path: path of the directory that `atomic_directory` was given.
    """
    path = pathlib.Path(path).resolve()
    pattern = rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}"
    hidden = [p for p in path.glob(".*") if re.fullmatch(pattern, p.name)]
    return sorted(p / "old" for p in hidden if (p / "old").is_dir())


@contextlib.contextmanager
def _only_writer(path):
    """Raises where another process, or another thread, writes to the directory at this moment."""
    if fcntl is None:
        yield
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(directory)  # which gives the lock back, as does the end of the process


def _rename_to_fresh(origin, path):
    try:
        os.rename(origin, path)
    except OSError as error:
        if path.exists():
            raise _taken(path) from error
        raise


def _taken(path):
    return FileExistsError(
        errno.EEXIST,
        "A directory must be written by one at a time. Another process saves there, or has done so "
        "since this one began: what it has written stays. Save again, or elsewhere",
        str(path),
    )


def _exchange(path, temporary, replaces, written_last):
    """Moves old files from `path` away and new ones there, or none."""
    new = {file.relative_to(temporary / "new") for file in _files(temporary / "new", "**/*")}
    for file in new:
        _check_in_no_way(path, file)
    old = {file for file in new if os.path.lexists(path / file)}
    for pattern in replaces:
        found = set(_files(path, pattern)) - set(_files(temporary, "**/*"))
        old |= {file.relative_to(path) for file in found}

    last = pathlib.Path(written_last)
    moves = [(path / file, temporary / "old" / file) for file in sorted(old - {last})]
    moves += [(temporary / "new" / file, path / file) for file in sorted(new - {last})]
    if last in old:
        moves.insert(0, (path / last, temporary / "old" / last))
    if last in new:
        moves.append((temporary / "new" / last, path / last))
    _move_all_or_none(moves)


def _move_all_or_none(moves):
    done, made = [], []
    try:
        for origin, target in moves:
            missing = [parent for parent in target.parents if not parent.exists()][::-1]
            made += missing
            for parent in missing:
                parent.mkdir()
            done.append((origin, target))
            os.rename(origin, target)
    except BaseException as error:
        for origin, target in reversed(done):
            # An interruption may have come before the last move or after it.
            if os.path.lexists(target) and not os.path.lexists(origin):
                try:
                    os.rename(target, origin)
                except OSError:
                    error.add_note(f"{origin} could not be put back. It is now {target}")
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def _files(directory, pattern):
    return [file for file in directory.glob(pattern) if not file.is_dir() or file.is_symlink()]


def _check_in_no_way(path, file):
    """A new file does not displace a directory, nor a new directory a file."""
    blocked = (path / file).is_dir() or any(
        os.path.lexists(path / parent) and not (path / parent).is_dir() for parent in file.parents
    )
    if blocked:
        raise NotADirectoryError(
            f"{file} cannot be written in {path}: a file is in the place of a directory, or a "
            "directory in the place of a file. Move it away, or save elsewhere."
        )
