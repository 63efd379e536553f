"""A task as a directory in the reference's format, as the published ones. Long by its READMEs."""

import functools
import json

import keras
import ml_dtypes  # noqa: F401  gives numpy the name "bfloat16"
import numpy as np
from keras import ops

from keras_t5gemma2.checkpoints.adapter import adapter_of
from keras_t5gemma2.checkpoints.cards import Card, write_card
from keras_t5gemma2.checkpoints.heads import REFERENCE_ROWS
from keras_t5gemma2.checkpoints.saving import check_is_dense
from keras_t5gemma2.checkpoints.sources import KEY
from keras_t5gemma2.checkpoints.transformers import peft
from keras_t5gemma2.checkpoints.transformers.config_writer import (
    PUBLISHED_IDS,
    generation_config,
    with_tower,
)
from keras_t5gemma2.checkpoints.transformers.files import (
    PROCESSOR_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    processor_config,
    tokenizer_config,
)
from keras_t5gemma2.checkpoints.transformers.generations import writer_of
from keras_t5gemma2.checkpoints.transformers.names import encoder_name, published_name, rows
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.chat_template import TEMPLATE_FILE
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.safetensors import INDEX_FILE, SINGLE_FILE
from keras_t5gemma2.files.safetensors_writer import NewTensor, parse_size, write_safetensors
from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.lora import targets
from keras_t5gemma2.messages import shown
from keras_t5gemma2.registry import class_name

DTYPES = ("float32", "bfloat16", "float16")
# What the reference's encoder alone takes for the end of an image, whatever its config says.
_END_OF_IMAGE = 256_000

_TABLE = "embedder/table/embeddings"
_CONFIG_FILE, _GENERATION_FILE = "config.json", "generation_config.json"
# Of the reference's classes with a head, and of the one that generates: its automatic class, what
# Hugging Face calls the task, the class here, and what comes out.
_KINDS = {
    None: ("AutoModelForImageTextToText", None, "T5Gemma2Seq2SeqLM", "text"),
    "T5Gemma2ForSequenceClassification": (
        *("AutoModelForSequenceClassification", "text-classification"),
        *("T5Gemma2TextClassifier", "classes"),
    ),
    "T5Gemma2ForTokenClassification": (
        *("AutoModelForTokenClassification", "token-classification"),
        *("T5Gemma2TokenClassifier", "a class of each token"),
    ),
}
# The reference's classes of T5Gemma 1, by those of T5Gemma 2 that do the same.
_FIRST = {name.replace("T5Gemma2", "T5Gemma"): row for name, row in _KINDS.items() if name}
# Every file of the format: an old one that is not written again would be read with the new.
_FILES = (
    *(_CONFIG_FILE, _GENERATION_FILE, SINGLE_FILE, INDEX_FILE, "model-*-of-*.safetensors"),
    *(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "tokenizer.model", "special_tokens_map.json"),
    *(PROCESSOR_FILE, "preprocessor_config.json", TEMPLATE_FILE, "chat_template.json"),
    *(f"adapters/*/{file}" for file in (peft.CONFIG_FILE, peft.WEIGHTS_FILE)),
)


def write_transformers(
    path,
    backbone,
    preprocessor,
    dtype,
    max_shard_size,
    adapters=None,
    metrics=None,
    encoder_only=False,
    head=None,
):
    """Writes a directory that the reference loads.

    Args:
        path: path of the directory.
        backbone: `T5Gemma2Backbone`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` for weights alone.
        dtype: "float32", "bfloat16", "float16", or `None` for what each weight has.
        max_shard_size: int or string such as "5GB".
        adapters: dict of `LoRAConfig` by name, of the adapters that are written in peft's format
            beside the base weights; or `None` to write the weights with the active ones in them.
        metrics: dict of numbers by name, of training, for the README.
        encoder_only: bool. Whether the encoder alone is written, of a model that has a decoder.
        head: pair of a `ReferenceHead` and the dict of its variables by path, or `None`.

    Raises:
        ValueError: as for `T5Gemma2Seq2SeqLM.export_to_transformers`.
    """
    check_is_dense(backbone.config, "transformers")
    path, max_bytes = local_path(path).resolve(), parse_size(max_shard_size)
    described, variables = head or (None, {})
    tensors = new_tensors(backbone, dtype, adapters is None, encoder_only)
    tensors += _head_tensors(variables, dtype)
    config = config_of(backbone, encoder_only)
    ids, writer = _token_ids(preprocessor), writer_of(config)
    lengths = _context_lengths(preprocessor, writer.CONTEXT_LENGTHS)
    stored = dtype or keras.backend.standardize_dtype(backbone.token_embedding.embeddings.dtype)
    files = {
        _CONFIG_FILE: {
            **writer.config_to_transformers(config, stored, ids, lengths),
            **({} if described is None else described.config),
            KEY: backbone.source,
        },
    }
    if config.decoder is not None and described is None:
        files[_GENERATION_FILE] = generation_config(ids)
    with atomic_directory(path, replaces=_FILES, written_last=_CONFIG_FILE) as directory:
        write_safetensors(directory, tensors, max_bytes)
        for name, of_adapter in (adapters or {}).items():
            found = adapter_of(backbone, name, of_adapter)
            place = path / "adapters" / name
            peft.write_peft_adapter(directory / "adapters" / name, found, backbone, place, metrics)
        if preprocessor is not None:
            files |= _processor_files(preprocessor)
            data = preprocessor.tokenizer.to_tokenizer_json()
            (directory / TOKENIZER_FILE).write_bytes(data)
            if (template := preprocessor.template_to_write()) is not None:
                (directory / TEMPLATE_FILE).write_bytes(template.encode("utf-8"))
        for name, values in files.items():
            text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            (directory / name).write_text(text, encoding="utf-8")
        card = _card if config.decoder is not None else _card_of_encoder
        architecture = {} if described is None else {"architecture": described.architecture}
        write_card(directory, card(path.name, backbone, metrics or {}, **architecture), path)


def write_tokenizer(path, tokenizer):
    """Writes the files of a tokenizer alone.

    Args:
        path: path of the directory.
        tokenizer: `T5Gemma2Tokenizer`.
    """
    old = ("tokenizer.model", "special_tokens_map.json")
    values = json.dumps(tokenizer_config(tokenizer, sees_images=False), indent=2, sort_keys=True)
    with atomic_directory(path, replaces=old, written_last=TOKENIZER_CONFIG_FILE) as directory:
        (directory / TOKENIZER_FILE).write_bytes(tokenizer.to_tokenizer_json())
        (directory / TOKENIZER_CONFIG_FILE).write_text(f"{values}\n", encoding="utf-8")


def _head_tensors(variables, dtype):
    tensors = []
    for path, variable in variables.items():
        name, layout = REFERENCE_ROWS[path]
        shape = layout.from_variable_shape(tuple(variable.shape))
        read = functools.partial(_read, variable, layout)
        tensors.append(NewTensor(name, shape, np.dtype(dtype or variable.dtype), read))
    return tensors


def _card(name, backbone, metrics, architecture=None):
    generation = backbone.generation
    model, pipeline, ours, out = {**_KINDS, **_FIRST}[architecture]
    if generation == 1 and architecture is None:
        model = "AutoModelForSeq2SeqLM"
    ours = class_name(ours, generation)
    processor = "AutoProcessor" if backbone.vision else "AutoTokenizer"
    classes = f"{model}, {processor}"
    variable = "lm" if architecture is None else "classifier"
    if pipeline is None:
        pipeline = "image-text-to-text" if backbone.vision else "text-generation"
    return Card(
        title=name,
        what=(
            f"A T5Gemma {generation} model (an encoder-decoder: "
            f"{'text and images' if backbone.vision else 'text'} in, {out} out) in the format of "
            "the transformers library, written by keras_t5gemma2."
        ),
        usage=(
            f"from transformers import {classes}\n"
            f'model = {model}.from_pretrained("{name}")\n'
            f'processor = {processor}.from_pretrained("{name}")\n'
            f'# In Keras: {variable} = keras_t5gemma2.{ours}.from_preset("{name}")'
        ),
        library="transformers",
        source=backbone.source,
        pipeline=pipeline,
        metrics=metrics,
    )


def _card_of_encoder(name, backbone, metrics):
    processor = "AutoProcessor" if backbone.vision else "AutoTokenizer"
    cls = class_name("T5Gemma2Backbone", backbone.generation)
    return Card(
        title=name,
        what=(
            f"The encoder of a T5Gemma {backbone.generation} model "
            f"({'text and images' if backbone.vision else 'text'} in, a hidden state for each "
            "token out) in the format of the transformers library, written by keras_t5gemma2."
        ),
        usage=(
            f"from transformers import AutoModel, {processor}\n"
            f'model = AutoModel.from_pretrained("{name}")\n'
            f'processor = {processor}.from_pretrained("{name}")\n'
            f'# In Keras: encoder = keras_t5gemma2.{cls}.from_preset("{name}")'
        ),
        library="transformers",
        source=backbone.source,
        pipeline="feature-extraction",
        metrics=metrics,
    )


def config_of(backbone, encoder_only=False):
    """The `BackboneConfig` of what is written of a model."""
    return backbone.config.encoder_alone() if encoder_only else backbone.config


def new_tensors(backbone, dtype=None, is_merged=True, encoder_only=False):
    """What is written of a model's weights: a list of `NewTensor`, by published names.

    Args:
        backbone: `T5Gemma2Backbone`. Its variables need no values as long as none is read.
        dtype: as for `write_transformers`.
        is_merged: bool. Whether active adapters are in the weights.
        encoder_only: bool. Whether the encoder alone is written.

    Raises:
        ValueError: `dtype` is none of those, or the model is quantized.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(
            f"`dtype` must be one of {', '.join(map(repr, DTYPES))}, or `None` for what each "
            f"weight has. Received: dtype={shown(dtype)}"
        )
    _check_not_quantized(backbone)
    variables = {variable.path: variable for variable in backbone.weights}
    layers = targets.dense_layers(backbone) if is_merged else {}
    table = variables[_TABLE]
    tensors = []
    config = config_of(backbone, encoder_only)
    name_of = published_name
    if config.decoder is None:
        name_of = functools.partial(encoder_name, generation=config.generation)
    for row in rows(with_tower(config) if config.generation == 2 else config):
        if row.path in variables:
            variable = variables[row.path]
            layer = layers.get(row.path.removesuffix("/kernel"))
            values = variable if layer is None else layer.merged_kernel
            if row.path == _TABLE and config.decoder is None:
                values = functools.partial(_table_of_encoder, backbone)
            shape, kind = tuple(variable.shape), variable.dtype
        else:
            shape, kind = _shape_without_tower(row.path, backbone.config), table.dtype
            values = functools.partial(np.zeros, shape, "float32")
        shape = row.layout.from_variable_shape(shape)
        read = functools.partial(_read, values, row.layout)
        tensors.append(NewTensor(name_of(row.name), shape, np.dtype(dtype or kind), read))
    return tensors


def _table_of_encoder(backbone):
    """The table of an encoder alone, which the reference reads the end of an image from, too.

    There its vector is one of its own for the id of the published models alone. For another id the
    scaled vector of the table is it.
    """
    table = host_array(ops.convert_to_tensor(backbone.embedder.table.embeddings))
    config = backbone.config
    place = config.end_of_image_token_id
    if place in (None, _END_OF_IMAGE) or place >= config.vocabulary_size:
        return table
    table = np.array(table)
    vector = host_array(ops.convert_to_tensor(backbone.embedder.end_of_image))
    table[place] = vector.astype("float32") / np.float32(config.hidden_dim**0.5)
    return table


def _read(values, layout):
    """The values of a variable, or what a function gives for it, as a file has them."""
    values = values() if callable(values) else values
    if not isinstance(values, np.ndarray):
        values = host_array(ops.convert_to_tensor(values))
    return layout.from_variable(values)


def _shape_without_tower(path, config):
    """Of a weight of the tower that stands for none."""
    known = {
        "vision/tower/patch_embedding/kernel": (1, 1, 3, 1),
        "vision/tower/position_embedding": (1, 1),
        "vision/projector/projection/kernel": (1, config.hidden_dim),
    }
    return known.get(path, (1,))


def _check_not_quantized(backbone):
    for layer in compat.all_layers(backbone):
        if mode := getattr(layer, "quantization_mode", None):
            raise ValueError(
                "A quantized model cannot be exported: the reference has no such weights. "
                f"Received: {layer.path}, quantized to {shown(mode)}. Export before `quantize`"
            )


def _token_ids(preprocessor):
    if preprocessor is None:
        return PUBLISHED_IDS
    names = {"pad": "pad", "eos": "end", "bos": "start", "start_of_image": "start_of_image"}
    tokenizer = preprocessor.tokenizer
    return {role: getattr(tokenizer, f"{name}_token_id") for role, name in names.items()}


def _context_lengths(preprocessor, published):
    if preprocessor is None:
        return published
    return preprocessor.encoder_sequence_length, preprocessor.decoder_sequence_length


def _processor_files(preprocessor):
    """What stands beside `tokenizer.json`: dicts by file name."""
    converter = preprocessor.image_converter
    sees_images = converter is not None
    files = {TOKENIZER_CONFIG_FILE: tokenizer_config(preprocessor.tokenizer, sees_images)}
    if sees_images:
        files[PROCESSOR_FILE] = processor_config(converter, preprocessor.tokens_per_image)
    return files
