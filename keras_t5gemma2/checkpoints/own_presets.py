"""A model from a preset that this package saved.

Keras would revive whatever objects a file names, with whatever arguments. Here a file gives sizes
and settings, which are checked, and weights, which are read one by one into a model that does not
hold any yet; a class is taken from it only where it has been registered as one of the wanted kind.
"""

import dataclasses
import inspect
import pathlib
import types

import keras
import keras_hub

from keras_t5gemma2.backbone import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.h5_file import read_h5, stored_tensors
from keras_t5gemma2.checkpoints.limits import LARGEST_SIZE, MOST_LAYERS, check_size, is_number
from keras_t5gemma2.checkpoints.quantized_layers import quantized_layers, rows_in_file
from keras_t5gemma2.checkpoints.streaming import build_with_weights
from keras_t5gemma2.checkpoints.transformers_files import read_json
from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig, VisionConfig
from keras_t5gemma2.messages import cause, shown, shown_names
from keras_t5gemma2.options import integer
from keras_t5gemma2.preprocessing.tokenizer import VOCABULARY_FILE
from keras_t5gemma2.quantization import plans

TOKENIZER_FILES = f"assets/tokenizer/{VOCABULARY_FILE}"
# Configs inside of configs, by the class and the field that has them.
_NESTED = {
    (BackboneConfig, "encoder"): StackConfig,
    (BackboneConfig, "decoder"): StackConfig,
    (BackboneConfig, "vision"): VisionConfig,
    (StackConfig, "layers"): AttentionConfig,
}
_IDS = ("end_of_image_token_id", "image_token_id")


def is_own(directory, values):
    """Whether a parsed `config.json` is one that this module reads.

    Presets of a class that is derived from the package's are left to Keras.

    Args:
        directory: what an error calls the preset.
        values: dict, the parsed file.

    Raises:
        ValueError: it is the config of another model, or of none.
    """
    name = values.get("registered_name")
    found = keras.saving.get_registered_object(str(name))
    if not (inspect.isclass(found) and issubclass(found, T5Gemma2Backbone)):
        raise ValueError(
            "`config.json` must be that of a T5Gemma 2: with a `model_type` as published, or with "
            "the `registered_name` of a class of this package or of keras-hub. Received: "
            f"{directory}, with registered_name={shown(name)}"
        )
    return found is T5Gemma2Backbone


def load_backbone(
    directory, load_weights=True, text_only=False, dtype=None, allow_nonfinite=False, **kwargs
):
    """The backbone of a preset directory of this package.

    Args:
        directory: path of the directory.
        load_weights: bool. If false, the weights are random and no file of weights is needed.
        text_only: bool. Leave out the vision tower: it is neither built nor read.
        dtype: string or `keras.DTypePolicy` of every part; `None` is Keras's global policy. In a
            quantized preset it is that of what is no integer.
        allow_nonfinite: bool. Whether weights may be NaN or infinite.
        **kwargs: further arguments of `T5Gemma2Backbone`, instead of those in the preset.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or does not fit the config; the message names it.
    """
    path = pathlib.Path(directory, "config.json")
    fields = _fields(path, read_json(directory, path.name))
    config = backbone_config(path, fields.get("config"))
    if text_only:
        config = dataclasses.replace(config, vision=None)
    check_size(config, path)
    settings = {
        "gradient_checkpointing": fields.get("gradient_checkpointing") is True,
        "rounds_activations": fields.get("rounds_activations") is True,
        "trainable": fields.get("trainable") is not False,
    }
    modes = quantized_layers(path, config, fields.get("quantized_layers"))
    if modes and plans.is_planned():
        raise ValueError(
            "`quantize` must not be given for a preset that is quantized already. Received: "
            f"{path}, whose {next(iter(modes))} is {next(iter(modes.values()))}"
        )
    settings["quantized_layers"] = modes

    def build():
        return T5Gemma2Backbone(config, dtype=dtype, **{**settings, **kwargs})

    if not load_weights:
        return build()
    found = read_h5(directory)
    if text_only:
        found = {n: t for n, t in found.items() if not n.startswith("layers/vision/")}
    rows, integers = rows_in_file(config, modes)
    tensors = stored_tensors(directory, rows, found, integers)
    return build_with_weights(build, tensors, allow_nonfinite)


def backbone_config(origin, values):
    """The `BackboneConfig` that JSON describes, its types and sizes checked.

    Args:
        origin: what an error calls the file or object that holds it as its `config.config`.
        values: of any type, what should be a dict.

    Raises:
        ValueError: a field is missing, unknown, or not of its type or possible size.
    """
    return _config(origin, BackboneConfig, "config.config", values)


def load_tokenizer(cls, directory, **kwargs):
    """The tokenizer of a preset directory."""
    path = pathlib.Path(directory, "tokenizer.json")
    values = {**read_json(directory, path.name)}
    tokenizer = _revived(path, values, cls, keras_hub.tokenizers.Tokenizer, kwargs)
    assets = pathlib.Path(directory, TOKENIZER_FILES)
    if not assets.is_file():
        raise FileNotFoundError(
            f"A preset with a tokenizer must hold `{TOKENIZER_FILES}`. Received: `{directory}`, "
            "which does not"
        )
    tokenizer.load_assets(str(assets.parent))
    return tokenizer


def has_tokenizer(directory):
    """Whether a preset directory has a tokenizer."""
    return pathlib.Path(directory, "tokenizer.json").is_file()


def load_image_converter(cls, directory, **kwargs):
    """The image converter of a preset directory."""
    path = pathlib.Path(directory, "image_converter.json")
    base = keras_hub.layers.ImageConverter
    return _revived(path, read_json(directory, path.name), cls, base, kwargs)


def load_preprocessor(cls, directory, text_only=False, **kwargs):
    """The preprocessor of a preset directory, or one of the tokenizer and converter in it."""
    path = pathlib.Path(directory, "preprocessor.json")
    values = read_json(directory, path.name) if path.is_file() else {}
    fields = _fields(path, values) if values else {}
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = load_tokenizer(cls.tokenizer_cls, directory)
    if text_only:
        kwargs["image_converter"] = None
    if "image_converter" not in kwargs:
        has_converter = pathlib.Path(directory, "image_converter.json").is_file()
        if values:
            has_converter = fields.get("image_converter") is not None
        converter = cls.image_converter_cls
        kwargs["image_converter"] = (
            load_image_converter(converter, directory) if has_converter else None
        )
    if not values:
        return cls(**kwargs)
    return _revived(path, values, cls, keras_hub.models.Preprocessor, kwargs)


def task_settings(cls, directory):
    """The class of a preset's task, `cls` or one derived from it, and the arguments it was saved
    with, without its backbone and its preprocessor.

    A preset of a backbone alone, or of another task, has no settings.
    """
    path = pathlib.Path(directory, "task.json")
    values = read_json(directory, path.name) if path.is_file() else {}
    found = keras.saving.get_registered_object(str(values.get("registered_name")))
    if not (inspect.isclass(found) and issubclass(found, cls)):
        return cls, {}
    elsewhere = ("backbone", "preprocessor", "adapters", "name")
    fields = {k: v for k, v in _fields(path, values).items() if k not in elsewhere}
    known = set(inspect.signature(found.__init__).parameters)
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"`config` of {path} must hold arguments of {found.__name__}. "
            f"Received: {shown_names(unknown)}"
        )
    return found, fields


def _fields(path, values):
    fields = values.get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"`config` of {path} must be an object. Received: {shown(fields)}")
    return fields


def _revived(path, values, cls, base, kwargs):
    """A layer with the settings in a file, and with `kwargs` instead of some of them."""
    name = values.get("registered_name")
    found = keras.saving.get_registered_object(str(name))
    if not (inspect.isclass(found) and issubclass(found, cls)):
        raise ValueError(
            f"`registered_name` of {path} must be that of {cls.__name__}, or of a class that is "
            f"derived from it and registered. Received: registered_name={shown(name)}"
        )
    fields = {key: value for key, value in _fields(path, values).items() if key not in ("name",)}
    # A layer of text and images has no weights: its dtype is that of its class.
    fields = {key: value for key, value in fields.items() if key not in ("dtype", "trainable")}
    try:
        return found.from_config({**fields, **kwargs})
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} does not describe a {found.__name__}: {cause(error, 1000)}"
        ) from error


def _config(path, config_class, name, values):
    """A config object from JSON; every field there, none besides, each of its type."""
    known = {field.name: field for field in dataclasses.fields(config_class)}
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise ValueError(
            f"`{name}` of {path} must be an object with {', '.join(known)}. "
            f"Received: {shown(values)}"
        )
    needed = [key for key, field in known.items() if field.default is dataclasses.MISSING]
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"`{name}` of {path} must hold {', '.join(missing)}, which are missing")
    found = {
        key: _value(path, config_class, known[key], f"{name}.{key}", value)
        for key, value in values.items()
    }
    try:
        return config_class(**found)
    except ValueError as error:
        raise ValueError(f"`{name}` of {path}: {cause(error, 1000)}") from error


def _value(path, config_class, field, name, value):
    is_optional = isinstance(field.type, types.UnionType) and value is None
    nested = _NESTED.get((config_class, field.name))
    if is_optional:
        return None
    if nested is AttentionConfig:
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_LAYERS:
            rule = f"be a list of 1 to {MOST_LAYERS} layers"
            raise ValueError(f"`{name}` of {path} must {rule}. Received: {shown(value)}")
        return tuple(_config(path, nested, f"{name}[{i}]", layer) for i, layer in enumerate(value))
    if nested is not None:
        return _config(path, nested, name, value)
    if field.type in (int, int | None):
        least, largest = (0, 2**31 - 1) if field.name in _IDS else (1, LARGEST_SIZE)
        largest = MOST_LAYERS if field.name == "num_layers" else largest
        count = integer(value)
        is_sound = count is not None and least <= count <= largest
        rule = f"be an integer from {least} to {largest}"
    else:
        is_sound = is_number(value) and value >= 0
        rule = "be a number, and not negative"
    if not is_sound:
        raise ValueError(f"`{name}` of {path} must {rule}. Received: {field.name}={shown(value)}")
    return value
