"""What weights derive from, which decides the terms that they are shared under.

A model carries the name of its source, as Hugging Face has it, from the files it was read from
through training into every file that is written of it.
"""

import pathlib
import re

from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.registry import presets

# What weights of a file come from that does not say it. They are taken to be Gemma's.
UNKNOWN = "unknown"
# The key of a `config.json` in the reference's format, and of a `metadata.json` of keras-hub.
KEY = "keras_t5gemma2_source"

_REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"
_HUB, _KAGGLE = "hf://", "kaggle://"


def source_of(preset, directory):
    """The source of the weights of a preset.

    Args:
        preset: string or path, as the user gave it.
        directory: path of the directory where its files are.

    Returns:
        What a file of ours says, `None` for weights that were random at first; or the name of
        the repository that it is; or "unknown".
    """
    said, source = _recorded(pathlib.Path(directory))
    if said:
        return source
    preset = str(preset)
    if preset in presets:
        return presets[preset].get("hf_handle", preset).removeprefix(_HUB)
    if preset.startswith(_HUB):
        return preset.removeprefix(_HUB)
    if preset.startswith(_KAGGLE):
        for row in presets.values():
            handle = row.get("kaggle_handle", "").rpartition("/")[0]
            if handle and f"{preset}/".startswith(f"{handle}/"):
                return row["hf_handle"].removeprefix(_HUB)
    return _of_directory(directory)


def source_of_gemma3(path):
    """The source of the weights of a Gemma 3 model, the path of a file or directory."""
    path = pathlib.Path(path).expanduser()
    return _of_directory(path) if path.is_dir() else UNKNOWN


def is_of_gemma(source):
    """Whether weights are shared under the terms of Gemma.

    >>> is_of_gemma("google/t5gemma-2-270m-270m"), is_of_gemma("unknown"), is_of_gemma(None)
    (True, True, False)
    """
    return license_of(source) == "gemma"


def license_of(source):
    """The licence of weights, as Hugging Face names licences."""
    if source is None:
        return "unknown"
    license_of_row = presets.get(source, {}).get("metadata", {}).get("license", "Gemma")
    return "gemma" if license_of_row.startswith("Gemma") else license_of_row.lower()


def preset_of(source):
    """What `from_preset` loads a source by, for a README.

    >>> preset_of("t5gemma2_tiny"), preset_of("google/t5gemma-2-270m-270m"), preset_of(None)
    ('t5gemma2_tiny', 'hf://google/t5gemma-2-270m-270m', 'the model that it was trained on')
    """
    if source in (None, UNKNOWN):
        return "the model that it was trained on"
    return f"{_HUB}{source}" if "/" in source else source


def _recorded(directory):
    """Whether the files say what the source is, and what they say."""
    config = read_json(directory, "config.json")
    places = [(config, KEY), (config.get("config"), "source")]
    if (directory / "metadata.json").is_file():
        places.append((read_json(directory, "metadata.json"), KEY))
    for values, key in places:
        if isinstance(values, dict) and key in values:
            return True, _checked(values[key])
    return False, None


def _checked(source):
    is_sound = isinstance(source, str) and re.fullmatch(f"{_REPOSITORY}|\\w+", source)
    return source if source is None or (is_sound and len(source) < 200) else UNKNOWN


def _of_directory(directory):
    """The repository that a directory is a copy of, if its name or its `config.json` says so."""
    found = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots", str(directory))
    if found:
        return "/".join(found.groups())
    path = pathlib.Path(directory)
    name = read_json(path, "config.json").get("_name_or_path") if path.is_dir() else None
    is_name = isinstance(name, str) and re.fullmatch(_REPOSITORY, name)
    return name if is_name and len(name) < 200 else UNKNOWN
