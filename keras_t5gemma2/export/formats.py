"""The formats of other runtimes, and which sizes and options each takes."""

import pathlib
from typing import Any, NamedTuple

import keras

from keras_t5gemma2.arguments import check_flags
from keras_t5gemma2.generation import batching
from keras_t5gemma2.kernels.export import onnx_programs
from keras_t5gemma2.messages import shown, shown_names, shown_path
from keras_t5gemma2.options import integer

# The backends that write each format, and which sizes have to be known there.
_FORMATS = {
    "tf_saved_model": {"tensorflow": (), "jax": ("encoder_length", "images")},
    "litert": {"tensorflow": ("batch_size", "encoder_length", "images")},
    "torch": {"torch": ("batch_size", "encoder_length", "images")},
    "onnx": {"torch": ("batch_size", "encoder_length", "images")},
    "jax": {"jax": ("batch_size", "encoder_length", "images")},
}
_OPTIONS = {"jax": {"platforms"}, "onnx": {"accuracy_level"}, "tf_saved_model": {"strings"}}
_FLOAT32_ONLY = {"litert": "LiteRT", "onnx": "onnxruntime on CPUs"}


class Sizes(NamedTuple):
    """The sizes of the tensors; `None`: any."""

    batch_size: Any
    encoder_length: Any  # tokens
    prompt_length: int  # tokens of the decoder's prompt
    decoder_length: int | None  # and with those that are generated
    images: Any  # of each row


def check_format(task, path, format, options, makes):
    """Raises where a format cannot be written of this task, on this backend, with these options.

    Args:
        task: the task.
        path: path of the file or directory.
        format: string.
        options: dict.
        makes: class of the task's functions.
    """
    check_flags(strings=options.get("strings", False))
    if format not in _FORMATS:
        raise ValueError(
            f"`format` must be one of {tuple(_FORMATS)}: no cache can be passed in and out in "
            f"any other. Received: format={shown(format)}"
        )
    backend = keras.config.backend()
    if backend not in _FORMATS[format]:
        raise ValueError(
            f"`format` must be one that the backend {backend} writes: "
            f"{[name for name, backends in _FORMATS.items() if backend in backends]}. Received: "
            f"format={shown(format)}. Save a preset, and export it with KERAS_BACKEND="
            f"{' or '.join(_FORMATS[format])}"
        )
    known = _OPTIONS.get(format, set())
    if format != "litert" and options.keys() - known:
        raise ValueError(
            f"`export` takes no such arguments for format={shown(format)}. Received: "
            f"{shown_names(options)}"
        )
    if options.get("strings") and (backend != "tensorflow" or not hasattr(makes, "prefill")):
        raise ValueError(
            "`strings=True` needs the backend tensorflow, and a task that generates. Received: "
            f"{backend}, and a {type(task).__name__}. Save a preset, and export it with "
            "KERAS_BACKEND=tensorflow"
        )
    if format == "onnx":
        onnx_programs.check_installed()
    dtype = task.backbone.encoder.compute_dtype
    if format in _FLOAT32_ONLY and dtype != "float32":
        raise ValueError(
            f"{_FLOAT32_ONLY[format]} computes in float32: a model must do so to be exported with "
            f'format="{format}". Received: a model of {dtype}. Load it with `dtype="float32"`'
        )
    if format == "litert" and pathlib.Path(path).suffix != ".tflite":
        raise ValueError(
            f'`filepath` must end with ".tflite". Received: filepath={shown_path(path)}'
        )


def checked_sizes(task, format, sizes):
    """`Sizes` with what is known of them without being said.

    Args:
        task: the task.
        format: string.
        sizes: `Sizes`, as they were given.
    """
    if sizes.decoder_length is None and task.preprocessor is not None:
        most = (integer(sizes.prompt_length) or 0) + batching.NEW_TOKENS
        cap = task.preprocessor.decoder_sequence_length
        sizes = sizes._replace(decoder_length=min(cap, most))
    if task.backbone.config.vision is None:
        if sizes.images:
            raise ValueError(
                "`images` needs a model with a vision tower, which this one has not. Received: "
                f"images={shown(sizes.images)}"
            )
        sizes = sizes._replace(images=0)
    required = *_FORMATS[format][keras.config.backend()], "decoder_length", "prompt_length"
    for name, value in sizes._asdict().items():
        lowest = 0 if name == "images" else 1
        if value is None and name not in required:
            continue
        if not isinstance(value, int) or value < lowest:
            raise ValueError(
                f"`{name}` must be an integer of at least {lowest} for format={shown(format)} from "
                f"{keras.config.backend()}. Received: {name}={shown(value)}"
            )
    if sizes.prompt_length >= sizes.decoder_length:
        raise ValueError(
            "`decoder_length` must leave room for a token after the prompt. Received: "
            f"decoder_length={shown(sizes.decoder_length)}, "
            f"prompt_length={shown(sizes.prompt_length)}"
        )
    return sizes
