"""A model as a preset that keras-hub's own T5Gemma 2 loads."""

import datetime
import json
import math

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2.checkpoints.cards import Card, write_card
from keras_t5gemma2.checkpoints.keras_hub import names as keras_hub_names
from keras_t5gemma2.checkpoints.keras_hub import t5gemma1
from keras_t5gemma2.checkpoints.keras_hub.config import config_to_keras_hub
from keras_t5gemma2.checkpoints.keras_hub.objects import dtype_object, keras_object
from keras_t5gemma2.checkpoints.keras_hub.tokenizer import TOKENIZER_ASSET, sentencepiece_of
from keras_t5gemma2.checkpoints.own.files import metrics_of
from keras_t5gemma2.checkpoints.saving import check_is_dense
from keras_t5gemma2.checkpoints.sources import KEY
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.chat_template import TEMPLATE_FILE
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.h5 import Array, write_h5
from keras_t5gemma2.files.tensors import num_bytes
from keras_t5gemma2.lora import targets
from keras_t5gemma2.messages import warn
from keras_t5gemma2.registry import class_name

_MODELS = {1: "keras_hub.src.models.t5gemma", 2: "keras_hub.src.models.t5gemma2"}
_BYTES_PER_UNIT = 1024**3
# Files of an earlier save that go even if the new one has none of the same name.
_REPLACED = (
    *("model*.weights.h5", "model.weights.json", "task.weights.h5", "task.json"),
    *("preprocessor.json", "tokenizer.json", "image_converter.json"),
    *("assets/tokenizer/vocabulary.*", TEMPLATE_FILE),
)


def save(path, backbone, task=None, max_shard_size=10):
    """Writes a preset of keras-hub's own T5Gemma 2.

    Args:
        path: path of the directory.
        backbone: `T5Gemma2Backbone`.
        task: the task around it, or `None` for a preset of the backbone alone.
        max_shard_size: int or float. The largest size of a file of weights, in GiB.
    """
    _check_plain(backbone)
    dtype = backbone.dtype_policy.name
    write = config_to_keras_hub if backbone.generation == 2 else t5gemma1.config_to_keras_hub
    configs = {"config.json": write(backbone.config, dtype)}
    proto = None
    if task is not None:
        generation = backbone.generation
        preprocessor = task.preprocessor and _preprocessor(task.preprocessor, generation)
        if preprocessor is not None:
            proto = sentencepiece_of(task.preprocessor.tokenizer.loaded_vocabulary())
            configs["preprocessor.json"] = preprocessor
            configs["tokenizer.json"] = preprocessor["config"]["tokenizer"]
            if "image_converter" in preprocessor["config"]:
                configs["image_converter.json"] = preprocessor["config"]["image_converter"]
        configs["task.json"] = _task(configs["config.json"], preprocessor, generation)
    stored = _stored(backbone)
    configs["metadata.json"] = {**_metadata(stored), KEY: backbone.source}
    arrays = [Array(name, num_bytes(value), _reader(value, kind)) for name, value, kind in stored]
    with atomic_directory(path, _REPLACED) as directory:
        write_h5(directory, arrays, max_shard_size * _BYTES_PER_UNIT)
        if proto is not None:
            (directory / TOKENIZER_ASSET).parent.mkdir(parents=True)
            (directory / TOKENIZER_ASSET).write_bytes(proto)
            # keras-hub does not read it; whoever loads the preset here again has it.
            if (template := task.preprocessor.chat_template) is not None:
                (directory / TEMPLATE_FILE).write_bytes(template.encode("utf-8"))
        for name, values in configs.items():
            (directory / name).write_text(json.dumps(values, indent=4), encoding="utf-8")
        write_card(directory, _card(local_path(path).resolve().name, backbone, task), path)


def _card(name, backbone, task):
    cls = "T5Gemma2Backbone" if task is None else "T5Gemma2Seq2SeqLM"
    cls = class_name(cls, backbone.generation)
    return Card(
        title=name,
        what=(
            f"{'The backbone of a' if task is None else 'A'} T5Gemma {backbone.generation} model "
            f"(an encoder-decoder: {'text and images' if backbone.vision else 'text'} in, text "
            "out) for keras-hub, written by keras_t5gemma2."
        ),
        usage=f'import keras_hub\nlm = keras_hub.models.{cls}.from_preset("{name}")',
        library="keras-hub",
        source=backbone.source,
        pipeline="image-text-to-text" if backbone.vision else "text-generation",
        metrics={} if task is None else metrics_of(task),
    )


def _check_plain(backbone):
    """Nothing but the weights of the architecture can be written."""
    if backbone.decoder is None:
        raise ValueError(
            "A model must have a decoder to be saved for keras-hub, whose T5Gemma has one. "
            "Received: an encoder alone, with config.decoder=None. Save it by `save_to_preset` or "
            "`export_to_transformers`"
        )
    check_is_dense(backbone.config, "keras-hub")
    for path, layer in targets.dense_layers(backbone).items():
        if layer.adapters and layer.merged is None:
            raise ValueError(
                "A model must not have adapters beside its weights when it is saved for "
                f"keras-hub. Received: {', '.join(layer.adapters)} at {path}. Call "
                "`merge_adapter` first, or `remove_adapter`"
            )
    for weight in backbone.weights:
        if not keras.backend.is_float_dtype(weight.dtype):
            raise ValueError(
                "A model must have float weights to be saved for keras-hub. Received: "
                f"{weight.path} of type {weight.dtype}"
            )


def _stored(backbone):
    """(path in the file, variable, layout) of each array, those of one layer together."""
    variables = {variable.path: variable for variable in backbone.weights}
    rows = {row.name: row for row in keras_hub_names.rows(backbone.config)}
    if backbone.config.vision is None and backbone.generation == 2:
        row = rows.pop(keras_hub_names.ENDS_OF_IMAGE[0])
        _warn_of_lost_vector(backbone, variables[row.path])
    return [
        (copy, variables[row.path], row.layout)
        for name, row in rows.items()
        for copy in keras_hub_names.copies(name, backbone.generation)
    ]


def _reader(variable, layout):
    def read():
        values = ops.convert_to_numpy(variable.value)
        return np.ascontiguousarray(values).reshape(layout.from_variable_shape(values.shape))

    return read


def _warn_of_lost_vector(backbone, vector):
    """keras-hub's text model has no vector of its own for the end of an image."""
    config = backbone.config
    if config.end_of_image_token_id >= config.vocabulary_size:
        return
    row = backbone.embedder.table.embeddings[config.end_of_image_token_id]
    row = ops.convert_to_numpy(row).astype("float32") * np.float32(config.hidden_dim**0.5)
    if not np.allclose(row, ops.convert_to_numpy(vector.value).astype("float32"), 1e-2, 1e-2):
        warn(
            "keras-hub's T5Gemma 2 without a vision tower reads its end-of-image token, of id "
            f"{config.end_of_image_token_id}, like any other. On text with this token its outputs "
            "will not be those of this model."
        )


def _task(backbone, preprocessor, generation):
    name = class_name("keras_hub>T5Gemma2Seq2SeqLM", generation)
    number = "" if generation == 1 else "2"
    parts = {"backbone": backbone, "preprocessor": preprocessor}
    return keras_object(
        f"{_MODELS[generation]}.t5gemma{number}_seq_2_seq_lm",
        name,
        {**parts, "name": f"t5_gemma{number}_seq2_seq_lm"},
    )


def _preprocessor(ours, generation):
    """keras-hub's preprocessor with the settings that prepare rows as ours does."""
    converter, number = ours.image_converter, "" if generation == 1 else "2"
    tokenizer = {"proto": None, "sequence_length": None, "add_bos": False, "add_eos": False}
    config = {
        **_layer_fields(f"t5_gemma{number}_seq2_seq_lm_preprocessor", "float32"),
        "tokenizer": keras_object(
            f"{_MODELS[generation]}.t5gemma{number}_tokenizer",
            class_name("keras_hub>T5Gemma2Tokenizer", generation),
            {**_layer_fields(f"t5_gemma{number}_tokenizer", "int32"), **tokenizer},
        ),
        "config_file": "preprocessor.json",
        "encoder_sequence_length": ours.encoder_sequence_length,
        "decoder_sequence_length": ours.decoder_sequence_length,
        "add_start_token": True,  # of the encoder's text
        "add_end_token": True,
    }
    if generation == 2:
        config |= {
            "image_size": converter and converter.image_size[0],
            "num_vision_tokens_per_image": converter and ours.tokens_per_image,
        }
    if converter is not None:
        config["image_converter"] = _image_converter(converter)
    place = f"{_MODELS[generation]}.t5gemma{number}_seq_2_seq_lm_preprocessor"
    name = class_name("keras_hub>T5Gemma2Seq2SeqLMPreprocessor", generation)
    return keras_object(place, name, config)


def _image_converter(ours):
    config = {
        **_layer_fields("t5_gemma2_image_converter", "float32"),
        "image_size": list(ours.image_size),
        "scale": 1 / 127.5,
        "offset": -1.0,
        "interpolation": "bilinear",
        "antialias": True,
        "crop_to_aspect_ratio": False,
        "pad_to_aspect_ratio": False,
    }
    name = "keras_hub>T5Gemma2ImageConverter"
    return keras_object(f"{_MODELS[2]}.t5gemma2_image_converter", name, config)


def _layer_fields(name, dtype):
    return {"name": name, "trainable": True, "dtype": dtype_object(dtype)}


def _metadata(stored):
    return {
        "keras_version": keras.version(),
        "keras_hub_version": keras_hub.version(),
        "parameter_count": sum(math.prod(variable.shape) for _, variable, _ in stored),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["Seq2SeqLM"],
    }
