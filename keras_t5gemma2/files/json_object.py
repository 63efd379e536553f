"""A JSON object in a file, checked before it is read."""

import json
import pathlib

from keras_t5gemma2.files.atomic import left_by_a_killed_save
from keras_t5gemma2.messages import cause, shown

# Far more than any config has.
_MOST_BYTES = 100_000_000


def read_json(directory, name):
    """The object in a JSON file of a directory.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is no JSON object.
    """
    path = pathlib.Path(directory) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"A checkpoint directory must hold {name}. Received: {path}{_killed(directory)}"
        )
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"{path} must not be larger than {_MOST_BYTES} bytes. Received: {path.stat().st_size}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {cause(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object. Received: {shown(values)}")
    return values


def _killed(directory):
    """What is said of a directory where a save was killed, or nothing."""
    found = left_by_a_killed_save(directory)
    if not found:
        return ""
    return (
        f", where a save was killed while it exchanged files. The old ones are in {found[-1]}: "
        "move them back over what is there, or save again"
    )
