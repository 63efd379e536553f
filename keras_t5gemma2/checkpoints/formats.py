"""From the name of a preset to the files behind it, and from the files to objects."""

import difflib
import os
import pathlib
import re
from typing import NamedTuple

import keras
import keras_hub

from keras_t5gemma2.checkpoints.keras_hub import reader as keras_hub_presets
from keras_t5gemma2.checkpoints.keras_hub.config import is_keras_hub
from keras_t5gemma2.checkpoints.keras_hub.untied import check_choice
from keras_t5gemma2.checkpoints.own import reader as own_presets
from keras_t5gemma2.checkpoints.transformers import processor as transformers_layers
from keras_t5gemma2.checkpoints.transformers import reader as transformers
from keras_t5gemma2.files.downloads import (
    download_from_hub,
    download_from_kaggle,
    small_files_from_kaggle,
)
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.lora.config import check_described
from keras_t5gemma2.messages import short_errors, shown, warn
from keras_t5gemma2.options import checked
from keras_t5gemma2.registry import presets

_LONGEST_PRESET = 4096
_HUB, _KAGGLE = "hf://", "kaggle://"
_HUB_PAGES = ("https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf:")
# What a checkpoint has beside its weights: small files, all of them wanted.
_SMALL_FILES = ("*.json", "tokenizer.model")
_WEIGHTS = ("*.safetensors",)
_KERAS_FILES = ("*.json", "assets/tokenizer/*")
_KERAS_WEIGHTS = (
    *("model.weights.h5", "model.weights.json", "model_*.weights.h5"),
    "adapters/*.safetensors",
)


def locate(preset, load_weights=True):
    """Where the files of a preset are.

    Args:
        preset: string or path: a name of `presets`, `hf://organization/repository`, a `kaggle://`
            handle, a directory in the reference's format, or a preset directory of Keras.
            Anything else is left to keras-hub.
        load_weights: bool. Whether the weights are needed too.

    Returns:
        A `pathlib.Path` of a directory that `load_backbone` and `load_layer` read, downloaded if
        need be, and `None`; or `None` and what keras-hub is to load.

    Raises:
        FileNotFoundError: there is no such directory, repository or `config.json`.
        PermissionError: the repository asks for a login, or for its terms to be accepted.
        ConnectionError: the hub cannot be reached, and the files are not in the local cache.
        ValueError: `config.json` is none.
    """
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
        reader = _reader_of(pathlib.Path(download_from_hub(repository, "config.json")).parent)
        if reader is None:
            return None, preset
        small, large = (_KERAS_FILES, _KERAS_WEIGHTS)
        if reader is transformers_layers:
            small, large = (_SMALL_FILES, _WEIGHTS)
        patterns = small + (large if load_weights else ())
        return pathlib.Path(download_from_hub(repository, patterns)), None
    if preset.startswith(_KAGGLE):
        handle = preset.removeprefix(_KAGGLE)
        if _reader_of(download_from_kaggle(handle, "config.json").parent) is None:
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
    return (None, str(directory)) if _reader_of(directory) is None else (directory, None)


def load_backbone(
    directory, load_weights=True, text_only=False, embeddings=None, allow_nonfinite=False, **kwargs
):
    """The backbone of a directory that `locate` gave.

    Args:
        directory: path of the directory.
        load_weights: bool. If false, the weights are random.
        text_only: bool. Leave out the vision tower.
        embeddings: "encoder", "decoder", "mean" or `None`, for presets of keras-hub alone.
        allow_nonfinite: bool. Whether weights may be NaN or infinite.
        **kwargs: `dtype` and further arguments of the backbone.
    """
    check_choice(embeddings)
    with short_errors():
        keras.dtype_policies.get(kwargs.get("dtype"))
    kwargs["allow_nonfinite"] = allow_nonfinite
    reader = _reader_of(directory)
    if reader is keras_hub_presets:
        load = keras_hub_presets.load_backbone
        return load(directory, load_weights, text_only, embeddings, **kwargs)
    check_no_choice(embeddings, directory)
    module = transformers if reader is transformers_layers else reader
    return module.load_backbone(directory, load_weights, text_only, **kwargs)


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
        if value:
            raise ValueError(
                f"`{name}` needs a preset of a class of this package, in a directory or behind an "
                f"hf:// or kaggle:// handle. Received: {name}={shown(value)}, "
                f"preset={shown(preset)}"
            )


def load_layer(cls, directory, **kwargs):
    """The tokenizer, image converter or preprocessor of a directory that `locate` gave.

    Args:
        cls: the class of the layer.
        directory: path of the directory.
        **kwargs: arguments of the constructor, instead of those of the checkpoint.
    """
    reader = _reader_of(directory)
    if issubclass(cls, keras_hub.tokenizers.Tokenizer):
        return reader.load_tokenizer(cls, directory, **kwargs)
    if issubclass(cls, keras_hub.layers.ImageConverter):
        return reader.load_image_converter(cls, directory, **kwargs)
    return reader.load_preprocessor(cls, directory, **kwargs)


def load_task_preprocessor(cls, directory, text_only=False, **lengths):
    """The preprocessor of a directory; `None` with a warning where there is no tokenizer.

    Args:
        cls: the class of the preprocessor.
        directory: path of the directory.
        text_only: bool. Leave out the image converter.
        **lengths: `encoder_sequence_length` and `decoder_sequence_length`, instead of those of
            the checkpoint.
    """
    reader = _reader_of(directory)
    if not reader.has_tokenizer(directory):
        if lengths:
            raise ValueError(
                "A length is one of the preprocessor, which needs a tokenizer. Received: "
                f"{_listed(lengths)} for {directory}, which has no {reader.TOKENIZER_FILES}"
            )
        warn(
            f"There is no {reader.TOKENIZER_FILES} in {directory}: the task has no preprocessor, "
            "and takes and gives token ids."
        )
        return None
    return reader.load_preprocessor(cls, directory, text_only, **lengths)


def given_lengths(kwargs, **lengths):
    """Those of the caps of a preprocessor that are given, checked.

    Args:
        kwargs: dict, the other arguments. A `preprocessor` among them has caps of its own.
        **lengths: `encoder_sequence_length` and `decoder_sequence_length`; int or `None`.
    """
    given = {name: checked(**{name: n}) for name, n in lengths.items() if n is not None}
    if given and "preprocessor" in kwargs:
        raise ValueError(
            "A length is for the preprocessor that is loaded. Received: "
            f"{_listed(given)}, and preprocessor={shown(kwargs['preprocessor'])}. Set it on "
            "that one"
        )
    return given


def _listed(lengths):
    return ", ".join(f"{name}={shown(value)}" for name, value in lengths.items())


def task_settings(cls, directory):
    """The class of the task in a directory, and the arguments it was saved with."""
    if _reader_of(directory) is own_presets:
        return own_presets.task_settings(cls, directory)
    return cls, {}


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


def _reader_of(directory):
    """The module that reads the presets of a directory, or `None` where keras-hub is to do it."""
    values = read_json(directory, "config.json")
    if "model_type" in values:
        return transformers_layers
    if is_keras_hub(values):
        return keras_hub_presets
    return own_presets if own_presets.is_own(directory, values) else None
