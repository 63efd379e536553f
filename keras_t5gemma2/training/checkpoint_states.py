"""The directories that the states of a run are in."""

import json
import re
import shutil

from keras_t5gemma2.files.disk import local_path

STATE_FILE = "state.json"
_WHOLE = r"epoch_\d{6,}_step_\d{9,}"
_UNFINISHED = rf"\.{_WHOLE}\.[0-9a-f]{{8}}"  # as `atomic_directory` names them


def newest(directory):
    """The path of the newest whole state in a directory of `TrainingCheckpoint`, or `None`."""
    return max(whole_states(local_path(directory)), key=place_of, default=None)


def whole_states(directory):
    return [path for path in _named(directory, _WHOLE) if (path / STATE_FILE).is_file()]


def left_by_killed_processes(directory):
    """Directories of states whose process was killed while it wrote or removed them."""
    removed = [path for path in _named(directory, _WHOLE) if not (path / STATE_FILE).exists()]
    return [*_named(directory, _UNFINISHED), *removed]


def remove_state(path):
    """Removes a state, first the file without which a directory does not count as a state."""
    (path / STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(path)


def _named(directory, pattern):
    """The directories in one whose whole name is as a pattern has it: all others are the user's."""
    if not directory.is_dir():
        return []
    return [p for p in directory.iterdir() if re.fullmatch(pattern, p.name) and p.is_dir()]


def place_of(path):
    _, epoch, _, step = path.name.split("_")
    return int(epoch), int(step)


def read_state(path):
    """The parsed `state.json` of a directory, with all that `_restore` takes of it."""
    path, kinds = path / STATE_FILE, {"epoch": int, "step": int}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        is_sound = all(type(state[name]) is kind for name, kind in kinds.items())
        is_sound &= state["epoch"] >= 0 and state["step"] >= 0
        is_sound &= type(state["seed"]) in (int, type(None))
        is_sound &= type(state["random_states"]) in (list, type(None))
    except (ValueError, KeyError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise ValueError(
            f"The state of an interrupted run must be as it was written. Received: {path}, which "
            "is damaged. Remove its directory to begin from an earlier state or anew"
        )
    return state
