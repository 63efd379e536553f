"""From the name of a preset to the files behind it, and from a published checkpoint to objects."""

import json
import pathlib
import warnings
from typing import NamedTuple

import keras_hub

from keras_t5gemma2.checkpoints.transformers_config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers_files import (
    read_json,
    read_processor,
    tokenizer_file,
)
from keras_t5gemma2.registry import presets

_HUB = "hf://"
# What a checkpoint has beside its weights: small files, all of them wanted.
_SMALL_FILES = ("*.json", "tokenizer.model")
_WEIGHTS = ("*.safetensors",)
_KERAS_WEIGHTS = ("model.weights.h5", "model.weights.json", "model_*.weights.h5")


def locate(preset, load_weights=True):
    """Where the files of a preset are.

    Args:
        preset: string or path: a name of `presets`, `hf://organization/repository`, a directory
            in the reference's format, or a preset directory of Keras. Anything else is left to
            keras-hub, such as `kaggle://` handles.
        load_weights: bool. Whether the weights are needed too.

    Returns:
        A `pathlib.Path` of a directory in the reference's format, downloaded if need be, and
        `None`; or `None` and what keras-hub is to load.

    Raises:
        FileNotFoundError: there is no such directory, repository or `config.json`.
        PermissionError: the repository asks for a login, or for its terms to be accepted.
        ConnectionError: the hub cannot be reached, and the files are not in the local cache.
        ValueError: the preset was written by keras-hub's own T5Gemma 2.
    """
    preset = str(preset)
    if preset in presets:
        row = presets[preset]
        preset = row.get("directory") or row["hf_handle"]
    if preset.startswith(_HUB):
        repository = preset.removeprefix(_HUB)
        config = _read(_download(repository, "config.json"))
        if "model_type" not in config:
            return None, _check_ours(preset, config)
        patterns = _SMALL_FILES + (_WEIGHTS if load_weights else ())
        return pathlib.Path(_download(repository, patterns)), None
    if "://" in preset:
        return None, preset
    directory = pathlib.Path(preset).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(
            "A preset must be a name, a handle such as hf://organization/repository, or a "
            f"directory. Received: preset={preset!r}. The names are: {', '.join(presets)}"
        )
    config = read_json(directory, "config.json")
    if "model_type" in config:
        return directory, None
    return None, _check_ours(str(directory), config)


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
        preset = _download(preset.removeprefix(_HUB), patterns)
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
        preset = _download(preset.removeprefix(_HUB), files)
    path = pathlib.Path(preset, "task.json")
    adapters = _read(path)["config"].get("adapters") if path.is_file() else None
    if adapters is None:
        return None
    paths = {name: path.parent / "adapters" / f"{name}.safetensors" for name in adapters["configs"]}
    return AdapterFiles(paths, adapters["active"])


def load_layer(cls, directory, **kwargs):
    """The tokenizer, image converter or preprocessor of a directory in the reference's format.

    Args:
        cls: the class of the layer.
        directory: path of the directory.
        **kwargs: arguments of the constructor, instead of those of the checkpoint.
    """
    if issubclass(cls, keras_hub.tokenizers.Tokenizer):
        return cls(_tokenizer_file(directory), **kwargs)
    if issubclass(cls, keras_hub.layers.ImageConverter):
        return cls(**{**_image_options(directory)[0], **kwargs})
    return load_preprocessor(cls, directory, **kwargs)


def load_preprocessor(cls, directory, text_only=False, **kwargs):
    """The preprocessor of a directory in the reference's format; see `load_layer`."""
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = cls.tokenizer_cls(_tokenizer_file(directory))
    if _vision(directory, text_only) is not None:
        options, tokens_per_image = _image_options(directory)
        kwargs = {"tokens_per_image": tokens_per_image, **kwargs}
        if "image_converter" not in kwargs:
            kwargs["image_converter"] = cls.image_converter_cls(**options)
    return cls(**kwargs)


def load_task_preprocessor(cls, directory, text_only=False):
    """As `load_preprocessor`; `None` with a warning where there is no tokenizer."""
    if tokenizer_file(directory) is None:
        warnings.warn(
            f"There is no tokenizer.json or tokenizer.model in {directory}: the task has no "
            "preprocessor, and takes and gives token ids.",
            stacklevel=3,
        )
        return None
    return load_preprocessor(cls, directory, text_only)


def _tokenizer_file(directory):
    path = tokenizer_file(directory)
    if path is None:
        raise FileNotFoundError(
            f"A tokenizer needs tokenizer.json or tokenizer.model. Received: {directory}, which "
            "has neither."
        )
    return str(path)


def _vision(directory, text_only=False):
    return config_from_transformers(read_json(directory, "config.json"), text_only).vision


def _image_options(directory):
    return image_options(directory, _vision(directory))


def image_options(directory, vision):
    """Arguments of the image converter, and the tokens of an image.

    Args:
        directory: path of a directory, in which the files of an image processor may stand.
        vision: `VisionConfig`, which such files must fit.

    Raises:
        ValueError: they do not fit, or want images treated in a way that the converter lacks.
    """
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


def _check_ours(preset, config):
    name = config.get("registered_name", "")
    if name == "keras_hub>T5Gemma2Backbone":
        raise ValueError(
            "A preset must be one that this package saved, or a published checkpoint. Received: "
            f"preset={preset!r}, which keras-hub's own T5Gemma 2 wrote. Load it with "
            "keras_hub.models.T5Gemma2Seq2SeqLM.from_preset, or take the published weights: "
            f"{', '.join(presets)}"
        )
    return preset


def _read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def _download(repository, what):
    """The local path of one file of a repository, or of its directory for a tuple of patterns."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if isinstance(what, str):
            return huggingface_hub.hf_hub_download(repository, what)
        return huggingface_hub.snapshot_download(repository, allow_patterns=list(what))
    except errors.HFValidationError as error:
        raise ValueError(
            f"A handle must have the form hf://organization/repository. Received: hf://{repository}"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The weights of hf://{repository} are shared under terms that must be accepted: sign "
            f"in at https://huggingface.co/{repository} and accept them, then run `hf auth login` "
            f"here, or set HF_TOKEN. {_login_state()}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no repository hf://{repository}, or it is private. Check its name; for a "
            f"private one run `hf auth login`, or set HF_TOKEN. {_login_state()}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise FileNotFoundError(
            f"The repository hf://{repository} has no {what}: it is neither a Keras preset nor a "
            "checkpoint."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError) as error:
        raise ConnectionError(
            f"hf://{repository} cannot be downloaded: the hub is not reached, and the files are "
            "not in the local cache. Check the network, and that HF_HUB_OFFLINE is not set; or "
            f"download the repository elsewhere and give its directory. The hub said: {error}"
        ) from error


def _login_state():
    import huggingface_hub

    return "You are not logged in." if huggingface_hub.get_token() is None else "You are logged in."
