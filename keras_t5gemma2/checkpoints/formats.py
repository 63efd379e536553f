"""From the name of a preset to the files behind it, and to the class that reads them."""

import difflib
import os
import pathlib
import re
from typing import NamedTuple

import keras

from keras_t5gemma2.checkpoints.keras_hub.config import is_keras_hub
from keras_t5gemma2.checkpoints.keras_hub.reader import KerasHubCheckpoint
from keras_t5gemma2.checkpoints.keras_hub.untied import check_choice
from keras_t5gemma2.checkpoints.own.reader import OwnCheckpoint, is_own
from keras_t5gemma2.checkpoints.transformers.reader import TransformersCheckpoint
from keras_t5gemma2.files.downloads import (
    download_from_hub,
    download_from_kaggle,
    small_files_from_kaggle,
)
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.lora.config import check_described
from keras_t5gemma2.messages import shown
from keras_t5gemma2.registry import class_name, generation_of, presets

_LONGEST_PRESET = 4096
_HUB, _KAGGLE = "hf://", "kaggle://"
_HUB_PAGES = ("https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf:")


def open_checkpoint(
    preset,
    load_weights=True,
    text_only=False,
    embeddings=None,
    encoder_only=False,
    rope_factor=None,
    cls=None,
):
    """What is behind the name of a preset.

    Args:
        preset: string or path: a name of `presets`, `hf://organization/repository`, a `kaggle://`
            handle, a directory in the reference's format, or a preset directory of Keras.
            Anything else is left to keras-hub.
        load_weights: bool. Whether the weights are needed too.
        text_only: bool. Leave out the vision tower.
        embeddings: "encoder", "decoder", "mean" or `None`, for presets of keras-hub alone.
        encoder_only: bool. Leave out the decoder.
        rope_factor: float, instead of what layers of full attention have; or `None`.
        cls: the class to be loaded, whose `generation` the checkpoint must be of, or `None`.

    Returns:
        A `Checkpoint`, downloaded if need be, and `None`; or `None` and what keras-hub is to load.

    Raises:
        FileNotFoundError: there is no such directory, repository or `config.json`.
        PermissionError: the repository asks for a login, or for its terms to be accepted.
        ConnectionError: the hub cannot be reached, and the files are not in the local cache.
        ValueError: `config.json` is none, or `embeddings` no choice or not to be chosen, or the
            model is of the other generation.
    """
    if (row := _row_of(preset)) is not None:  # nothing is downloaded for the wrong class
        check_class(cls, generation_of(row), f"preset={shown(preset)}")
    directory, remote = locate(preset, load_weights)
    if directory is None:
        return None, remote
    check_choice(embeddings)
    kind = _kind_of(directory)
    choice = (embeddings,) if kind is KerasHubCheckpoint else ()
    checkpoint = kind(directory, text_only, preset, encoder_only, rope_factor, *choice)
    if not choice or checkpoint.generation == 1:
        check_no_choice(embeddings, directory)
    check_class(cls, checkpoint.generation, f"preset={shown(preset)}")
    return checkpoint, None


def check_class(cls, generation, received):
    """Raises where a class is for models of the other generation.

    Args:
        cls: class of this package, or derived from one, with a `generation`; or `None` for any.
        generation: int, of the model.
        received: string, what an error says was received.
    """
    wanted = getattr(cls, "generation", None)
    if wanted in (None, generation):
        return
    of_package = (c for c in cls.__mro__ if c.__module__.startswith("keras_t5gemma2."))
    name = next(c.__name__ for c in of_package if c.__name__.startswith("T5Gemma"))
    of_second = name if wanted == 2 else name.replace("T5Gemma", "T5Gemma2", 1)
    other = class_name(of_second, generation)
    is_there = keras.saving.get_registered_object(f"keras_t5gemma2>{other}") is not None
    remedy = f"For it there is `{other}`" if is_there else "It takes no images"
    raise ValueError(
        f"A `{name}` must be of a T5Gemma {wanted}. Received: {received}, a T5Gemma {generation}. "
        f"{remedy}"
    )


def generation_of_preset(preset):
    """1 or 2: which T5Gemma is behind the name of a preset, as `open_checkpoint` has it.

    2 where nobody can tell before keras-hub has loaded it.
    """
    if (row := _row_of(preset)) is not None:
        return generation_of(row)
    checkpoint, _ = open_checkpoint(preset, load_weights=False)
    return 2 if checkpoint is None else checkpoint.generation


def class_for(cls, preset):
    """What loads a preset: `cls`, a class of T5Gemma 2, or that of T5Gemma 1 in its place."""
    name = class_name(cls.__name__, generation_of_preset(preset))
    return keras.saving.get_registered_object(f"keras_t5gemma2>{name}")


def _row_of(preset):
    """The row of a preset, by its name or by one of its handles."""
    if not isinstance(preset, str):
        return None
    handles = ("hf_handle", "kaggle_handle")
    rows = presets.items()
    return next((r for name, r in rows if preset in (name, *map(r.get, handles))), None)


def locate(preset, load_weights=True):
    """As `open_checkpoint`, with the path of the directory in place of the `Checkpoint`."""
    if not isinstance(preset, (str, os.PathLike)) or len(os.fspath(preset)) > _LONGEST_PRESET:
        raise TypeError(
            "A preset must be a name, a handle such as hf://organization/repository, or the path "
            f"of a directory. Received: preset={shown(preset)}"
        )
    preset = str(preset)
    if preset in presets:
        row = presets[preset]
        preset = row.get("directory") or row["hf_handle"]
    if preset.startswith(_HUB):
        repository = preset.removeprefix(_HUB)
        kind = _kind_of(pathlib.Path(download_from_hub(repository, "config.json")).parent)
        if kind is None:
            return None, preset
        patterns = kind.small_files + (kind.weight_files if load_weights else ())
        return pathlib.Path(download_from_hub(repository, patterns)), None
    if preset.startswith(_KAGGLE):
        handle = preset.removeprefix(_KAGGLE)
        if _kind_of(download_from_kaggle(handle, "config.json").parent) is None:
            return None, preset
        return (download_from_kaggle if load_weights else small_files_from_kaggle)(handle), None
    if "://" in preset and not preset.startswith(_HUB_PAGES):
        return None, preset
    directory = pathlib.Path(preset).expanduser()
    if not os.path.isdir(directory):  # of a name that no file can have, too
        raise FileNotFoundError(
            "A preset must be a name, a handle such as hf://organization/repository, or a "
            f"directory.{_meant(preset)} Received: preset={shown(preset)}. The names are: "
            f"{', '.join(presets)}"
        )
    return (None, str(directory)) if _kind_of(directory) is None else (directory, None)


def check_no_choice(embeddings, preset):
    """Raises where `embeddings` is given for a preset that has one table."""
    if embeddings is not None:
        raise ValueError(
            "`embeddings` chooses between the two tables of a preset that keras-hub's own "
            f"T5Gemma 2 wrote. Received: embeddings={shown(embeddings)} for {preset}, which is none"
        )


def check_only_keras(preset, embeddings, **options):
    """Raises where something is asked of a preset that keras-hub is to load, which it cannot do."""
    check_no_choice(embeddings, preset)
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(
                f"`{name}` needs a preset of a class of this package, in a directory or behind an "
                f"hf:// or kaggle:// handle. Received: {name}={shown(value)}, "
                f"preset={shown(preset)}"
            )


class AdapterFiles(NamedTuple):
    """The adapters of a preset."""

    paths: dict  # by name
    active: str | dict | None  # as `set_adapter` takes it


def adapter_files(preset):
    """The `AdapterFiles` of a preset of ours, or `None`.

    Args:
        preset: path or string: a preset directory, or the `hf://` handle of one.
    """
    preset = str(preset)
    if preset.startswith(_HUB):
        files = ("task.json", "adapters/*.safetensors")
        preset = download_from_hub(preset.removeprefix(_HUB), files)
    path = pathlib.Path(preset, "task.json")
    fields = read_json(path.parent, path.name).get("config") if path.is_file() else None
    adapters = fields.get("adapters") if isinstance(fields, dict) else None
    if adapters is None:
        return None
    check_described(adapters, path)
    active = adapters["active"]
    paths = {name: path.parent / "adapters" / f"{name}.safetensors" for name in adapters["configs"]}
    return AdapterFiles(paths, active)


def _meant(preset):
    """A question whether another preset was meant, or nothing."""
    page = next((page for page in _HUB_PAGES if preset.startswith(page)), "")
    repository = preset.removeprefix(page).strip("/")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository) and len(repository) < 80:
        return f" Did you mean {_HUB}{repository}?"
    handles = {row["hf_handle"].rpartition("/")[2]: row["hf_handle"] for row in _published()}
    near = difflib.get_close_matches(preset.lower(), [*presets, *handles], 1, 0.6)
    return f" Did you mean {handles.get(near[0], near[0])}?" if near else ""


def _published():
    return [row for row in presets.values() if "hf_handle" in row]


def _kind_of(directory):
    """The class that reads a directory, or `None` where keras-hub is to do it."""
    values = read_json(directory, "config.json")
    if "model_type" in values:
        return TransformersCheckpoint
    if is_keras_hub(values):
        return KerasHubCheckpoint
    return OwnCheckpoint if is_own(directory, values) else None
