"""Tensors of files, each read when it is asked for."""

import dataclasses
import sys
from collections.abc import Callable

import keras
import ml_dtypes  # noqa: F401  gives numpy the name "bfloat16"
import numpy as np

from keras_t5gemma2.files.layout import AS_IS, Layout
from keras_t5gemma2.messages import listed

# Less than this takes no time worth a progress bar.
_BYTES_WORTH_A_BAR = 100_000_000
_BYTES_PER_UNIT = 1_000_000
_NAMES_IN_A_MESSAGE = 10


def nothing():
    pass


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Args:
        name: string. What the checkpoint calls it; errors name it.
        shape: tuple of ints, in the checkpoint.
        read: function without arguments that gives the values, an array of that shape and of
            any float dtype. A writable array is taken over; a read-only one, such as a view of
            a file, is copied.
        release: function without arguments, called after each piece that was copied. It may
            give back the memory of what has been read.
        layout: `Layout`, from the checkpoint's order of axes to the variable's.
    """

    name: str
    shape: tuple
    read: Callable[[], np.ndarray]
    release: Callable[[], None] = nothing
    layout: Layout = AS_IS


def list_names(names):
    """The first few of `names`, and how many more there are."""
    return listed(names, _NAMES_IN_A_MESSAGE)


def num_bytes(variable):
    """Size of a variable's values."""
    return int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize


def progress_bar(total):
    """A function that shows how many of `total` bytes have been read or written."""
    if total < _BYTES_WORTH_A_BAR or not keras.config.is_interactive_logging_enabled():
        return lambda done: None
    # Where a line cannot be overwritten, one is written every ten seconds.
    is_dynamic = sys.stdout.isatty() or "ipykernel" in sys.modules
    interval = 0.1 if is_dynamic else 10
    bar = keras.utils.Progbar(total // _BYTES_PER_UNIT, unit_name="MB", interval=interval)
    return lambda done: bar.update(done // _BYTES_PER_UNIT, finalize=done == total)
