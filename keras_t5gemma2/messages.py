"""What users are told: errors with values cut short, warnings at the user's line, and news."""

import os
import reprlib
import sys
import warnings

_MOST_CHARACTERS = 80
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# What may stand between the user and this package: a call of a layer goes through torch's, too.
_BETWEEN = [
    os.path.join(os.sep, *folders, "")
    for folders in (("keras", "src"), ("keras_hub", "src"), ("torch", "nn", "modules"))
]


def shown(value, limit=_MOST_CHARACTERS):
    """A value as an error message shows it: its `repr`, of at most `limit` characters.

    What is large is cut before its `repr` is made. Arrays and tensors are shown by shape and dtype.

    Args:
        value: any object.
        limit: int. The most characters.

    Example:

    >>> shown("a" * 1000, limit=20)
    "'aaaaaaa...aaaaaaa'"
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        text = f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    else:
        is_bytes = isinstance(value, (bytes, bytearray))
        text = _representation(limit).repr(value[:limit] if is_bytes else value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def warn(message):
    """Warns once, as of the line of the user's own that led here.

    Args:
        message: string, what happened, where, and what to do.
    """
    warnings.warn(message, stacklevel=_depth_of_the_user())


def say(line):
    """Writes a line to stderr: what happens now, where nothing is wrong.

    Args:
        line: string.
    """
    print(line, file=sys.stderr, flush=True)


def _representation(limit):
    representation = reprlib.Repr()
    representation.maxstring = representation.maxother = limit - 1
    representation.maxlong = limit
    return representation


def _depth_of_the_user():
    """How many calls above `warn` the first one outside of this package and of Keras stands."""
    frame, depth = sys._getframe(2), 2
    while frame.f_back is not None and _is_inside(frame):
        frame, depth = frame.f_back, depth + 1
    return depth


def _is_inside(frame):
    path = frame.f_code.co_filename
    return path.startswith(_PACKAGE) or any(part in path for part in _BETWEEN)
