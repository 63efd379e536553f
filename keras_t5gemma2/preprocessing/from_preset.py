"""Tokenizers, image converters and preprocessors, made of what a checkpoint says of them."""

import inspect
from typing import Any, Self

import keras_hub

from keras_t5gemma2.arguments import check_loading
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.checkpoint import registered_class
from keras_t5gemma2.messages import cause, shown, warn
from keras_t5gemma2.options import checked
from keras_t5gemma2.typing import Mixin, PathLike


class LoadsFromCheckpoints(Mixin):
    """A preprocessing layer that is also read from a checkpoint in the reference's format."""

    @classmethod
    def from_preset(cls, preset: PathLike, **kwargs: Any) -> Self:
        """The layer of a preset or of a published checkpoint.

        Args:
            preset: a name of `keras_t5gemma2.presets`, `hf://organization/repository`, a local
                directory in the reference's format, a preset directory, or any other handle
                that keras-hub knows.
            **kwargs: arguments of the constructor, instead of those of the preset; such as
                `encoder_sequence_length` of a preprocessor.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            TypeError: there is no such argument; the message names the nearest.
            ValueError: a file is not what it should be.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> cls.from_preset("t5gemma2_tiny", encoder_sequence_length=32).encoder_sequence_length
        32
        """
        return _loaded(cls, preset, kwargs, checked_class=cls)


def _loaded(cls, preset, kwargs, checked_class=None):
    """As `from_preset`, of a preset of the generation of `checked_class`, or of any."""
    check_loading(cls, "from_preset", kwargs, by_preset=("proto",))
    for name in ("encoder_sequence_length", "decoder_sequence_length"):
        if name in kwargs:
            value = kwargs.pop(name)  # `None` for that of the preset
            kwargs |= {} if value is None else {name: checked(**{name: value})}
    checkpoint, preset = formats.open_checkpoint(preset, False, cls=checked_class)
    if checkpoint is None:
        return super(LoadsFromCheckpoints, cls).from_preset(preset, **kwargs)
    if issubclass(cls, keras_hub.tokenizers.Tokenizer):
        return _made(cls, checkpoint.tokenizer(), kwargs)
    if issubclass(cls, keras_hub.layers.ImageConverter):
        return _made(cls, checkpoint.image_converter(), kwargs)
    return make_preprocessor(cls, checkpoint, **kwargs)


def make_preprocessor(cls, checkpoint, **kwargs):
    """The preprocessor of a checkpoint.

    Args:
        cls: the class of the preprocessor.
        checkpoint: `Checkpoint`.
        **kwargs: arguments of the constructor, instead of those of the checkpoint.
    """
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = _made(cls.tokenizer_cls, checkpoint.tokenizer(), {})
    saved = checkpoint.preprocessor()
    if "image_converter" not in kwargs:
        converter = checkpoint.image_converter() if checkpoint.has_image_converter else None
        kwargs["image_converter"] = converter and _made(cls.image_converter_cls, converter, {})
    return _made(cls, saved, kwargs)


def from_preset_of(cls, base, preset, kwargs):
    """A preprocessor of a class derived from `base`, of a preset of any class and generation.

    Args:
        cls: the class of the preprocessor.
        base: the class that presets have.
        preset: as `from_preset` takes it.
        kwargs: dict, arguments of the constructor, instead of those of the preset.
    """
    check_loading(cls, "from_preset", kwargs)
    names = ("encoder_sequence_length", "decoder_sequence_length")  # `None`: the preset's own
    lengths = {name: kwargs.pop(name) for name in names if name in kwargs}
    base = formats.class_for(base, preset)
    found = _loaded(base, preset, lengths)
    config = found.get_config()
    if not isinstance(found, cls):
        shared = inspect.signature(base.__init__).parameters
        config = {name: value for name, value in config.items() if name in shared}
    parts = {"tokenizer": found.tokenizer, "image_converter": found.image_converter}
    return cls(**{**config, **parts, **kwargs})


def make_task_preprocessor(cls, checkpoint, **lengths):
    """As `make_preprocessor`; `None` with a warning where there is no tokenizer.

    Args:
        cls: the class of the preprocessor.
        checkpoint: `Checkpoint`.
        **lengths: `encoder_sequence_length` and `decoder_sequence_length`, instead of those of
            the checkpoint.
    """
    if checkpoint.has_tokenizer:
        return make_preprocessor(cls, checkpoint, **lengths)
    files, path = checkpoint.tokenizer_files, checkpoint.path
    if lengths:
        raise ValueError(
            "A length is one of the preprocessor, which needs a tokenizer. Received: "
            f"{_listed(lengths)} for {path}, which has no {files}"
        )
    warn(
        f"There is no {files} in {path}: the task has no preprocessor, and takes and gives token "
        "ids."
    )
    return None


def given_lengths(kwargs, encoder, decoder):
    """Dict of the lengths of a preprocessor that are given, checked.

    Args:
        kwargs: dict, the other arguments. A `preprocessor` among them has lengths of its own.
        encoder: int or `None`, the `encoder_sequence_length`.
        decoder: int or `None`, the `decoder_sequence_length`.
    """
    lengths = {"encoder_sequence_length": encoder, "decoder_sequence_length": decoder}
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


def _made(cls, saved, kwargs):
    """A layer with the settings of a `SavedLayer`, and with `kwargs` instead of some of them."""
    if saved.path is None:
        return cls(**{**saved.arguments, **kwargs})
    # What a model of either generation was given may have been made for the other one.
    found = registered_class(saved.registered_name, getattr(cls, "base_of_saved", cls))
    if found is None:
        raise ValueError(
            f"`registered_name` of {saved.path} must be that of {cls.__name__}, or of a class that "
            "is derived from it and registered. Received: "
            f"registered_name={shown(saved.registered_name)}"
        )
    # A layer of text and images has no weights: its dtype is that of its class.
    left_out = ("name", "dtype", "trainable")
    arguments = {key: value for key, value in saved.arguments.items() if key not in left_out}
    try:
        layer = found.from_config({**arguments, **kwargs})
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{saved.path} does not describe a {found.__name__}: {cause(error, 1000)}"
        ) from error
    if saved.assets is not None:
        layer.load_assets(saved.assets)
    return layer
