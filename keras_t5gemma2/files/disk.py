"""Files on disk: where `~` is, whether there is room, and what to do where it ends."""

import contextlib
import ctypes
import errno
import os
import pathlib
import shutil
import sys
import tempfile
import threading

# What HDF5 keeps in memory of a file until it is closed, for each array and for the whole.
_METADATA_BYTES_OF_AN_ARRAY, _METADATA_BYTES = 4 << 10, 1 << 19
_IS_LINUX, _KEEP_SIZE = sys.platform == "linux", 1
_state = threading.local()  # `reserved`: what `reserve` reserves


def local_path(path):
    """The `pathlib.Path` of a path that users give, `~` expanded.

    >>> local_path("~/model") == pathlib.Path.home() / "model"
    True
    """
    return pathlib.Path(path).expanduser()


def check_room(path, num_bytes):
    """Raises where a file of so many bytes does not fit where it is to be.

    Args:
        path: path of the file, whose directory is there.
        num_bytes: int.

    Raises:
        OSError: the disk would be full, with `errno.ENOSPC`.
    """
    free = shutil.disk_usage(pathlib.Path(path).parent).free
    if free < num_bytes:
        raise _full(path, f"it takes {num_bytes:,} bytes, and {free:,} are free")


def check_writable(directory):
    """Raises where nothing can be written to a directory, or to where it is to be made.

    Args:
        directory: path.

    Raises:
        OSError: as `naming` has it. Nothing is left there.
    """
    directory = pathlib.Path(directory).absolute()
    nearest = next((p for p in (directory, *directory.parents) if os.path.lexists(p)), None)
    if nearest is not None and nearest.is_dir():
        with naming(directory), tempfile.TemporaryFile(dir=nearest):
            pass


@contextlib.contextmanager
def naming(path):
    """Names a path in the error about one that must not be written, and what to do.

    Args:
        path: path that the user gave.

    Raises:
        OSError: what the block raised, for a file system or a directory that is read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise OSError(
            error.errno,
            f"What is saved must go to where this user may write ({os.strerror(error.errno)}). "
            "Nothing was changed; save elsewhere, or allow to write there",
            str(path),
        ) from error


@contextlib.contextmanager
def writing_h5(path, sizes):
    """While an HDF5 file is written: it is given all of its room before its arrays come.

    HDF5 writes its own tables when a file is closed. Where that fails, the process dies, at once
    or at its end. So no write may fail: whoever writes calls `reserve` once the file is open.

    Args:
        path: path of the file.
        sizes: ints, the bytes of each array.

    Raises:
        OSError: the disk is full, before anything is written or when the room is reserved.
    """
    path = pathlib.Path(path)
    num_bytes = sum(sizes) + _METADATA_BYTES + _METADATA_BYTES_OF_AN_ARRAY * len(sizes)
    check_room(path, num_bytes + _METADATA_BYTES)
    aside = path.with_name(f".{path.name}.room")
    earlier = getattr(_state, "reserved", None)
    _state.reserved = path, num_bytes, aside
    try:
        aside.write_bytes(bytes(_METADATA_BYTES))
        yield
        if path.is_file():
            os.truncate(path, path.stat().st_size)  # gives back what was reserved behind the end
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC and error.filename is None:
            raise _full(path, "it came to its end") from error
        raise
    finally:
        _state.reserved = earlier
        aside.unlink(missing_ok=True)


def reserve():
    """Reserves the room of the HDF5 file that `writing_h5` is for, which has been opened.

    Raises:
        OSError: there is no such room any more. What HDF5 needs to close the file is there.
    """
    path, num_bytes, aside = getattr(_state, "reserved", None) or (None, 0, None)
    if path is None or not path.is_file():  # nothing is written, or a file of another name
        return
    _state.reserved = None
    with path.open("r+b") as file:
        if not _allocate(file.fileno(), num_bytes):
            aside.unlink(missing_ok=True)
            raise _full(path, f"it takes {num_bytes:,} bytes, which are free no longer")


def _allocate(descriptor, num_bytes):
    """Whether a file of this size can be written; on systems that cannot tell, it is hoped so."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None) if _IS_LINUX else None
    if call is None:
        return True
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    is_done = call(descriptor, _KEEP_SIZE, 0, num_bytes) == 0
    return is_done or ctypes.get_errno() != errno.ENOSPC


def _full(path, problem):
    return OSError(
        errno.ENOSPC,
        f"The disk must have room for what is saved: {problem}. Nothing was changed; free some "
        "space, or save elsewhere",
        str(path),
    )
