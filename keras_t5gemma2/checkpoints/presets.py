"""From the name of a preset to the files behind it, and from a published checkpoint to objects."""

import json
import pathlib
import warnings
from typing import NamedTuple

import keras_hub

from keras_t5gemma2.checkpoints import keras_hub_presets, transformers
from keras_t5gemma2.checkpoints.downloads import (
    download_from_hub,
    download_from_kaggle,
    small_files_from_kaggle,
)
from keras_t5gemma2.checkpoints.keras_hub_config import is_keras_hub
from keras_t5gemma2.checkpoints.keras_hub_pairs import check_choice
from keras_t5gemma2.checkpoints.keras_hub_tokenizer import TOKENIZER_ASSET, tokenizer_asset
from keras_t5gemma2.checkpoints.transformers_config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers_files import (
    read_json,
    read_processor,
    tokenizer_file,
)
from keras_t5gemma2.registry import presets

_HUB, _KAGGLE = "hf://", "kaggle://"
# What a checkpoint has beside its weights: small files, all of them wanted.
_SMALL_FILES = ("*.json", "tokenizer.model")
_WEIGHTS = ("*.safetensors",)
_KERAS_WEIGHTS = ("model.weights.h5", "model.weights.json", "model_*.weights.h5")
_KERAS_FILES = ("*.json", "assets/tokenizer/*")


def locate(preset, load_weights=True):
    """Where the files of a preset are.

    Args:
        preset: string or path: a name of `presets`, `hf://organization/repository`, a `kaggle://`
            handle, a directory in the reference's format, or a preset directory of Keras.
            Anything else is left to keras-hub.
        load_weights: bool. Whether the weights are needed too.

    Returns:
        A `pathlib.Path` of a directory that `load_backbone` and `load_layer` read, downloaded if
        need be, and `None`: one in the reference's format, or a preset of keras-hub's own
        T5Gemma 2. Or `None` and what keras-hub is to load.

    Raises:
        FileNotFoundError: there is no such directory, repository or `config.json`.
        PermissionError: the repository asks for a login, or for its terms to be accepted.
        ConnectionError: the hub cannot be reached, and the files are not in the local cache.
    """
    preset = str(preset)
    if preset in presets:
        row = presets[preset]
        preset = row.get("directory") or row["hf_handle"]
    if preset.startswith(_HUB):
        repository = preset.removeprefix(_HUB)
        config = _read(download_from_hub(repository, "config.json"))
        if is_keras_hub(config):
            patterns = _KERAS_FILES + (_KERAS_WEIGHTS if load_weights else ())
        elif "model_type" in config:
            patterns = _SMALL_FILES + (_WEIGHTS if load_weights else ())
        else:
            return None, preset
        return pathlib.Path(download_from_hub(repository, patterns)), None
    if preset.startswith(_KAGGLE):
        handle = preset.removeprefix(_KAGGLE)
        if not is_keras_hub(_read(download_from_kaggle(handle, "config.json"))):
            return None, preset
        return (download_from_kaggle if load_weights else small_files_from_kaggle)(handle), None
    if "://" in preset:
        return None, preset
    directory = pathlib.Path(preset).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(
            "A preset must be a name, a handle such as hf://organization/repository, or a "
            f"directory. Received: preset={preset!r}. The names are: {', '.join(presets)}"
        )
    config = read_json(directory, "config.json")
    if "model_type" in config or is_keras_hub(config):
        return directory, None
    return None, str(directory)


def load_backbone(directory, load_weights=True, text_only=False, embeddings=None, **kwargs):
    """The backbone of a directory that `locate` gave.

    Args:
        directory: path of the directory.
        load_weights: bool. If false, the weights are random.
        text_only: bool. Leave out the vision tower.
        embeddings: "encoder", "decoder", "mean" or `None`, for presets of keras-hub alone.
        **kwargs: `dtype` and further arguments of the backbone.
    """
    if _is_keras_hub(directory):
        check_choice(embeddings)
        load = keras_hub_presets.load_backbone
        return load(directory, load_weights, text_only, embeddings, **kwargs)
    check_no_choice(embeddings, directory)
    return transformers.load_backbone(directory, load_weights, text_only, **kwargs)


def check_no_choice(embeddings, preset):
    """Raises where `embeddings` is given for a preset that has one table."""
    check_choice(embeddings)
    if embeddings is not None:
        raise ValueError(
            "`embeddings` chooses between the two tables of a preset that keras-hub's own "
            f"T5Gemma 2 wrote. Received: embeddings={embeddings!r} for {preset}, which is none"
        )


def load_text_only(cls, preset, load_weights=True, **kwargs):
    """The backbone of a preset of ours, its vision tower left out.

    Args:
        cls: the class of the backbone.
        preset: string: a preset directory, or the `hf://` handle of one.
        load_weights: bool. If false, the weights are random.
        **kwargs: arguments of the constructor.
    """
    if preset.startswith(_HUB):
        patterns = ("config.json", *(_KERAS_WEIGHTS if load_weights else ()))
        preset = download_from_hub(preset.removeprefix(_HUB), patterns)
    elif "://" in preset:
        raise ValueError(
            "`text_only=True` needs a preset directory or an hf:// handle. "
            f"Received: preset={preset!r}"
        )
    config = read_json(preset, "config.json")["config"]["config"]
    backbone = cls({**config, "vision": None}, **kwargs)
    if load_weights:
        whole, sharded = (pathlib.Path(preset) / name for name in _KERAS_WEIGHTS[:2])
        # What the file holds for the vision tower, nobody asks for.
        backbone.load_weights(str(whole if whole.exists() else sharded))
    return backbone


class AdapterFiles(NamedTuple):
    """The adapters of a preset."""

    paths: dict  # by name
    active: str | dict | None  # as `set_adapter` takes it


def adapter_files(preset):
    """The `AdapterFiles` of a preset of ours, or `None`.

    Args:
        preset: string: a preset directory, or the `hf://` handle of one.
    """
    if preset.startswith(_HUB):
        files = ("task.json", "adapters/*.safetensors")
        preset = download_from_hub(preset.removeprefix(_HUB), files)
    path = pathlib.Path(preset, "task.json")
    adapters = _read(path)["config"].get("adapters") if path.is_file() else None
    if adapters is None:
        return None
    paths = {name: path.parent / "adapters" / f"{name}.safetensors" for name in adapters["configs"]}
    return AdapterFiles(paths, adapters["active"])


def load_layer(cls, directory, **kwargs):
    """The tokenizer, image converter or preprocessor of a directory that `locate` gave.

    Args:
        cls: the class of the layer.
        directory: path of the directory.
        **kwargs: arguments of the constructor, instead of those of the checkpoint.
    """
    if issubclass(cls, keras_hub.tokenizers.Tokenizer):
        return cls(_tokenizer_file(directory), **kwargs)
    if issubclass(cls, keras_hub.layers.ImageConverter):
        if _is_keras_hub(directory):
            return keras_hub_presets.load_image_converter(cls, directory, **kwargs)
        return cls(**{**_image_options(directory)[0], **kwargs})
    return load_preprocessor(cls, directory, **kwargs)


def load_preprocessor(cls, directory, text_only=False, **kwargs):
    """The preprocessor of a directory that `locate` gave; see `load_layer`."""
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = cls.tokenizer_cls(_tokenizer_file(directory))
    if _is_keras_hub(directory):
        return keras_hub_presets.load_preprocessor(cls, directory, text_only, **kwargs)
    if _vision(directory, text_only) is not None:
        options, tokens_per_image = _image_options(directory)
        kwargs = {"tokens_per_image": tokens_per_image, **kwargs}
        if "image_converter" not in kwargs:
            kwargs["image_converter"] = cls.image_converter_cls(**options)
    return cls(**kwargs)


def load_task_preprocessor(cls, directory, text_only=False):
    """As `load_preprocessor`; `None` with a warning where there is no tokenizer."""
    if _found_tokenizer(directory)[0] is None:
        warnings.warn(
            f"There is no {_found_tokenizer(directory)[1]} in {directory}: the task has no "
            "preprocessor, and takes and gives token ids.",
            stacklevel=3,
        )
        return None
    return load_preprocessor(cls, directory, text_only)


def _tokenizer_file(directory):
    path, names = _found_tokenizer(directory)
    if path is None:
        raise FileNotFoundError(
            f"A tokenizer needs {names}. Received: {directory}, which does not hold it."
        )
    return str(path)


def _found_tokenizer(directory):
    """The path of the tokenizer of a directory or `None`, and what it may be called."""
    if _is_keras_hub(directory):
        return tokenizer_asset(directory), str(TOKENIZER_ASSET)
    return tokenizer_file(directory), "tokenizer.json or tokenizer.model"


def _is_keras_hub(directory):
    return is_keras_hub(read_json(directory, "config.json"))


def _vision(directory, text_only=False):
    return config_from_transformers(read_json(directory, "config.json"), text_only).vision


def _image_options(directory):
    """Arguments of the image converter, and the tokens of an image."""
    vision = _vision(directory)
    wanted = ((vision.image_size, vision.image_size), vision.tokens_per_image)
    options = {"image_size": wanted[0], "tokens_per_image": wanted[1], **read_processor(directory)}
    given = (tuple(options["image_size"]), options.pop("tokens_per_image"))
    if given != wanted:
        raise ValueError(
            f"The image processor of {directory} must fit its vision tower, which takes images "
            f"of size {wanted[0]} and gives {wanted[1]} tokens for each. Received: "
            f"size={given[0]}, image_seq_length={given[1]}"
        )
    return options, wanted[1]


def _read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
