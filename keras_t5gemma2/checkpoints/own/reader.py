"""A preset that this package saved.

Keras would revive whatever objects a file names, with whatever arguments. Here a file gives sizes
and settings, which are checked, and weights; a class is taken from it only where it has been
registered as one of the wanted kind.
"""

import dataclasses
import functools
import inspect
import types

import keras

from keras_t5gemma2.checkpoints.checkpoint import Checkpoint, SavedLayer, registered_class
from keras_t5gemma2.checkpoints.heads import own_head_tensors
from keras_t5gemma2.checkpoints.own.quantized_layers import quantized_layers, rows_in_file
from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    ExpertsConfig,
    StackConfig,
    VisionConfig,
)
from keras_t5gemma2.files.h5 import read_h5, stored_tensors
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.limits import LARGEST_SIZE, MOST_LAYERS, is_number
from keras_t5gemma2.messages import cause, shown, shown_names
from keras_t5gemma2.options import integer
from keras_t5gemma2.vocabulary.special_tokens import VOCABULARY_FILE

_BACKBONE = "keras_t5gemma2>T5Gemma2Backbone"
# Configs inside of configs, by the class and the field that has them.
_NESTED = {
    (BackboneConfig, "encoder"): StackConfig,
    (BackboneConfig, "decoder"): StackConfig,
    (BackboneConfig, "vision"): VisionConfig,
    (StackConfig, "layers"): AttentionConfig,
    (StackConfig, "experts"): ExpertsConfig,
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
    own = keras.saving.get_registered_object(_BACKBONE)
    found = registered_class(name, own)  # the class of T5Gemma 1 is derived from it
    if found is None:
        raise ValueError(
            "`config.json` must be that of a T5Gemma 2 or 1: with a `model_type` as published, or "
            "with the `registered_name` of a class of this package or of keras-hub. Received: "
            f"{directory}, with registered_name={shown(name)}"
        )
    return found is found.class_of_presets()


class OwnCheckpoint(Checkpoint):
    """A preset directory of this package."""

    tokenizer_files = f"assets/tokenizer/{VOCABULARY_FILE}"

    @property
    def generation(self):
        name = read_json(self.path, "config.json").get("registered_name")
        return keras.saving.get_registered_object(name).generation

    @functools.cached_property
    def _values(self):
        return _fields(self.origin, read_json(self.path, "config.json"))

    @functools.cached_property
    def config(self):
        config = backbone_config(self.origin, self._values.get("config"))
        return self.parts_of(config)

    @functools.cached_property
    def settings(self):
        values = self._values
        modes = quantized_layers(self.origin, self.config, values.get("quantized_layers"))
        return {
            "gradient_checkpointing": values.get("gradient_checkpointing") is True,
            "rounds_activations": values.get("rounds_activations") is True,
            "trainable": values.get("trainable") is not False,
            "quantized_layers": modes,
        }

    def tensors(self):
        found = read_h5(self.path)
        left_out = {"layers/vision/": self.text_only}
        left_out |= dict.fromkeys(
            ("layers/decoder/", "layers/decoder_embedder/"), self.encoder_only
        )
        left_out = tuple(prefix for prefix, is_left_out in left_out.items() if is_left_out)
        found = {n: t for n, t in found.items() if not n.startswith(left_out)}
        rows, integers = rows_in_file(self.config, self.settings["quantized_layers"])
        return stored_tensors(self.path, rows, found, integers)

    @property
    def has_tokenizer(self):
        return (self.path / "tokenizer.json").is_file()

    @property
    def has_image_converter(self):
        saved = self.preprocessor()
        has_one = saved.arguments.get("image_converter") is not None
        if saved.path is None:
            has_one = (self.path / "image_converter.json").is_file()
        return has_one and not self.text_only

    def _layer(self, name):
        path, values = self.path / name, read_json(self.path, name)
        return SavedLayer(_fields(path, values), path, values.get("registered_name"))

    def tokenizer(self):
        saved = self._layer("tokenizer.json")
        assets = self.path / self.tokenizer_files
        if not assets.is_file():
            raise FileNotFoundError(
                f"A preset with a tokenizer must hold `{self.tokenizer_files}`. Received: "
                f"`{self.path}`, which does not"
            )
        return saved._replace(assets=str(assets.parent))

    def image_converter(self):
        return self._layer("image_converter.json")

    def preprocessor(self):
        path = self.path / "preprocessor.json"
        has_one = path.is_file() and read_json(self.path, path.name)
        return self._layer(path.name) if has_one else SavedLayer({})

    def head_tensors(self):
        return own_head_tensors(self.path)

    def task(self, cls):
        """Without the backbone and the preprocessor.

        A preset of a backbone alone, or of another task, has no settings.
        """
        path = self.path / "task.json"
        values = read_json(self.path, path.name) if path.is_file() else {}
        found = registered_class(values.get("registered_name"), cls)
        if found is None:
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


def backbone_config(origin, values):
    """The `BackboneConfig` that JSON describes, its types and sizes checked.

    Args:
        origin: what an error calls the file or object that holds it as its `config.config`.
        values: of any type, what should be a dict.

    Raises:
        ValueError: a field is missing, unknown, or not of its type or possible size.
    """
    return _config(origin, BackboneConfig, "config.config", values)


def _fields(path, values):
    """The `config` of a file of Keras's, which must be an object."""
    fields = values.get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"`config` of {path} must be an object. Received: {shown(fields)}")
    return fields


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
    elif field.type is bool:
        is_sound, rule = isinstance(value, bool), "be true or false"
    else:
        is_sound = is_number(value) and value >= 0
        rule = "be a number, and not negative"
    if not is_sound:
        raise ValueError(f"`{name}` of {path} must {rule}. Received: {field.name}={shown(value)}")
    return value
