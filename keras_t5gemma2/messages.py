"""What users are told: errors with values cut short, warnings at the user's line, and news."""

import contextlib
import contextvars
import os
import reprlib
import sys
import warnings

_MOST_CHARACTERS = 80
_LONG_PATH = 255
_LONG_CAUSE = 200
_LONG_FOREIGN = 500
_NAMES = 8
_gathered = contextvars.ContextVar("gathered", default=None)
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


def shown_path(path):
    """A path as an error message shows it: whole, so that it can be found, unless it is very long.

    Args:
        path: string, bytes or path-like.
    """
    text = os.fsdecode(path)
    return f"'{text}'" if len(text) <= _LONG_PATH else shown(text)


def shown_names(names, most=_NAMES):
    """Names as an error message lists them: the first ones, and how many more there are.

    Args:
        names: iterable of objects, strings as a rule.
        most: int. The most names that are listed.

    Example:

    >>> shown_names(["a", "b", "c", "d"], most=2)
    "'a', 'b' and 2 more"
    """
    return listed([shown(name) for name in names], most)


def listed(texts, most=_NAMES):
    """The first few of a list of short texts, and how many more there are."""
    text = ", ".join(texts[:most])
    return text if len(texts) <= most else f"{text} and {len(texts) - most} more"


def cause(error, limit=_LONG_CAUSE):
    """What another error says, cut short, for a message that tells what it happened to.

    Args:
        error: an exception.
        limit: int. The most characters.
    """
    # The message around it shows the file, which `str` of an `OSError` does too.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@contextlib.contextmanager
def short_errors():
    """Cuts the message of an error of another library, which holds a user's value in full."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if len(str(error)) <= _LONG_FOREIGN:
            raise
        raise type(error)(cause(error, _LONG_FOREIGN)) from None


def warn(message):
    """Warns once, as of the line of the user's own that led here.

    Args:
        message: string, what happened, where, and what to do.
    """
    notes = _gathered.get()
    if notes is None:
        warnings.warn(message, stacklevel=_depth_of_the_user())
    else:
        notes.append(message)


@contextlib.contextmanager
def gathered():
    """Gives a list to which `warn` adds its messages instead of warning, as long as it is open."""
    notes = []
    token = _gathered.set(notes)
    try:
        yield notes
    finally:
        _gathered.reset(token)


@contextlib.contextmanager
def once():
    """Gives the first of the warnings of a block at its end, and the number of the others."""
    with gathered() as notes:
        yield
    if notes:
        others = f" The same holds for {len(notes) - 1} more" if notes[1:] else ""
        warn(f"{notes[0]}{'.' if others else ''}{others}")


def say(line):
    """Writes a line to stderr: what happens now, where nothing is wrong.

    Args:
        line: string.
    """
    print(line, file=sys.stderr, flush=True)


class _Repr(reprlib.Repr):
    """Shows integers of any length: Python refuses to write those of more than 4300 digits."""

    def repr_int(self, x, level):
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"<int of {x.bit_length()} bits>"


def _representation(limit):
    representation = _Repr()
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
