"""Ctrl-C at a chosen line of the package."""

import pathlib
import sys

import numpy as np

import keras_t5gemma2

PACKAGE = str(pathlib.Path(keras_t5gemma2.__file__).parent)


class _Lines:
    """Counts the lines of the package that are run, and interrupts at one of them."""

    def __init__(self, last=None):
        self.count, self.last = 0, last

    def __call__(self, frame, event, argument):
        return self._of_package if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _of_package(self, frame, event, argument):
        if event == "line":
            self.count += 1
            if self.count == self.last:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._of_package


def lines_of(call):
    """How many lines of the package a call runs."""
    return _run(call, None)[0]


def interrupted(call, line):
    """Calls a function and interrupts it at a line; whether there was such a line."""
    return _run(call, line)[1]


def _run(call, last):
    lines, before = _Lines(last), sys.gettrace()
    sys.settrace(lines)
    try:
        call()
    except KeyboardInterrupt:
        return lines.count, True
    finally:
        sys.settrace(before)
    return lines.count, False


def some_lines(call, count, seed=0):
    """The first and last line of a call that is made now, and some between them."""
    total = lines_of(call)
    between = np.random.default_rng(seed).integers(1, total, count - 2)
    return [1, *sorted(map(int, between)), total]
