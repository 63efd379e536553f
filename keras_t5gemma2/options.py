"""Options that many calls have, each checked in the same way wherever it is given."""

import math
import numbers
import operator

from keras_t5gemma2.messages import shown

# Between these, float32 holds a number, its inverse, and what positions make of either.
SMALLEST, LARGEST = 1e-30, 1e30
LARGEST_INTEGER = 2**31 - 1  # sizes and token ids are int32

# What each argument counts, and whether it may be `None`.
_COUNTS = {
    "max_length": ("tokens of a row's prompt and new tokens together", True),
    "max_new_tokens": ("new tokens of each row", True),
    "batch_size": ("rows at a time", True),
    "validation_batch_size": ("rows at a time", True),
    "num_return_sequences": ("sequences of each row", False),
    "num_samples": ("tokens to draw", False),
    "length": ("tokens", True),
    "encoder_sequence_length": ("tokens", False),
    "decoder_sequence_length": ("tokens", False),
}


def checked(vocabulary_size=None, **arguments):
    """The values of arguments in one form, or an error that names the argument.

    Counts become Python integers of at least 1. Integers of numpy are taken; bools and fractional
    numbers are refused. `stop_token_ids` becomes a tuple, or `None` where there are none; "auto"
    stays.

    Args:
        vocabulary_size: int or `None`. The bound of `stop_token_ids`.
        **arguments: by name; `stop_token_ids`, or one of the counts above.

    Returns:
        A list of the values in their order; the value where there is one argument.

    Raises:
        TypeError: a value is of the wrong type.
        ValueError: a value is out of range.

    Example:

    >>> checked(batch_size=None, max_new_tokens=8, stop_token_ids=[])
    [None, 8, None]
    """
    values = [
        _token_ids(name, value, vocabulary_size)
        if name == "stop_token_ids"
        else _count(name, value)
        for name, value in arguments.items()
    ]
    return values[0] if len(values) == 1 else values


def integer(value):
    """`value` as a Python integer; `None` where it is none, as bools and floats are."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def counted(name, value, least=1):
    """`value` as a Python integer of at least `least`, or an error that names the argument.

    >>> counted("every", 3)
    3
    """
    found = integer(value)
    if found is None or found < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={shown(value)}"
        )
    return found


def number(value):
    """`value` as a Python integer or float; `None` where it is no real number, as bools are not.

    What is too large for a float is infinite, since all that use it compute with floats.
    """
    whole = integer(value)
    if whole is None and (not isinstance(value, numbers.Real) or type(value) is bool):
        return None
    try:
        found = float(value if whole is None else whole)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return found if whole is None else whole


def is_in_float32(value):
    """Whether a finite number is 0, or one with which float32 can compute."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _count(name, value):
    meaning, may_be_none = _COUNTS[name]
    if value is None and may_be_none:
        return None
    count = integer(value)
    if count is None:
        none = ", or `None`" if may_be_none else ""
        raise TypeError(
            f"`{name}` must be an integer, {meaning}{none}. Received: {name}={shown(value)}"
        )
    if count < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={shown(value)}")
    return count


def _token_ids(name, value, vocabulary_size):
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    try:
        ids = None if isinstance(value, (str, bytes, dict)) else [*value]
    except TypeError:
        ids = None
    rule = f'`{name}` must be a list or tuple of token ids, "auto" or `None`'
    if ids is None:
        raise TypeError(f"{rule}. Received: {name}={shown(value)}")
    found = [integer(id) for id in ids]
    if None in found:
        raise TypeError(
            f"{rule}. Received: {name}={shown(value)}, with {shown(ids[found.index(None)])}"
        )
    outside = [id for id in found if id < 0 or (vocabulary_size and id >= vocabulary_size)]
    if outside:
        bound = f"to {vocabulary_size - 1}" if vocabulary_size else "on"
        raise ValueError(
            f"`{name}` must be token ids from 0 {bound}. Received: {name}={shown(value)}, with "
            f"{shown(outside[0])}"
        )
    return tuple(dict.fromkeys(found)) or None
