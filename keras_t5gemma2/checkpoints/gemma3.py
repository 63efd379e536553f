"""Gemma 3 text models, from which the paper starts T5Gemma 2, as models of this package.

A T5Gemma 2 layer is a Gemma 3 layer: the encoder takes its weights and looks both ways, and the
decoder takes them too, as those of its merged attention. With every token of the encoder masked,
the decoder is that Gemma 3 model.
"""

import pathlib

import numpy as np
from keras import ops

from keras_t5gemma2.backbone import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.gemma3_gguf import read_gemma3_gguf, sentencepiece_in_gguf
from keras_t5gemma2.checkpoints.names import rows
from keras_t5gemma2.checkpoints.safetensors_file import read_safetensors
from keras_t5gemma2.checkpoints.streaming import StoredTensor, build_with_weights, list_names
from keras_t5gemma2.checkpoints.transformers_config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers_files import read_json, tokenizer_file
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.preprocessing.vocabulary import t5gemma2_vocabulary

_TABLE, _HEAD = "embed_tokens.weight", "lm_head.weight"
# Parts of T5Gemma 2's names that differ in Gemma 3.
_OTHER_NAMES = {
    "pre_self_attn_layernorm": "input_layernorm",
    "post_self_attn_layernorm": "post_attention_layernorm",
}
# Of a text model, and of the text part of a model that sees images, in older and newer files.
_PREFIXES = ("language_model.model.", "model.language_model.", "language_model.", "model.")
_VISION_PREFIXES = ("vision_tower.", "multi_modal_projector.")
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def load_gemma3(path, dtype=None, **kwargs):
    """A backbone whose encoder and decoder both start from a Gemma 3 text model.

    Args:
        path: path of a GGUF file, or of a directory with `config.json` and safetensors. Of a
            Gemma 3 that sees images only the text part is read.
        dtype: string or `keras.DTypePolicy` of every part; `None` is Keras's global policy.
        **kwargs: further arguments of `T5Gemma2Backbone`, such as `name`.

    Returns:
        A `T5Gemma2Backbone` without a vision tower.

    Raises:
        FileNotFoundError: there is no such file or directory, or a part of it is missing.
        ImportError: `path` is a GGUF file and the `gguf` package is not installed.
        ValueError: it is no Gemma 3, or one whose attention T5Gemma 2 does not have; its logits
            have a matrix of their own; a tensor is missing, unexpected or of a wrong shape; a
            file is cut off.
    """
    path = _existing(path)
    values, tensors = _read_directory(path) if path.is_dir() else read_gemma3_gguf(path)
    config = _config(path, values)
    model = build_with_weights(
        lambda: T5Gemma2Backbone(config, dtype=dtype, **kwargs),
        _tensors_by_path(path, config, tensors),
    )
    _set_end_of_image(model.embedder)
    return model


def load_gemma3_tokenizer(path):
    """The tokenizer of a Gemma 3 model, with the image token that T5Gemma 2 has.

    Args:
        path: path of a GGUF file, or of a directory with `tokenizer.json` or `tokenizer.model`.

    Returns:
        A `T5Gemma2Tokenizer`.

    Raises:
        FileNotFoundError: there is no such file or directory, or no tokenizer in it.
        ImportError: `path` is a GGUF file and the `gguf` package is not installed.
        ValueError: it holds no tokenizer of Gemma 3's kind.
    """
    path = _existing(path)
    proto = tokenizer_file(path) if path.is_dir() else sentencepiece_in_gguf(path)
    if proto is None:
        raise FileNotFoundError(
            "The directory of a Gemma 3 model must hold tokenizer.json or tokenizer.model. "
            f"Received: {path}"
        )
    return T5Gemma2Tokenizer(t5gemma2_vocabulary(proto))


def _existing(path):
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            "`path` must be a GGUF file, or a directory with config.json and safetensors. "
            f"Received: path={str(path)!r}, which does not exist"
        )
    return path


def _read_directory(directory):
    """The values of the text model in a `config.json`, and its tensors by name without prefix."""
    values = read_json(directory, "config.json")
    kind = values.get("model_type")
    if kind not in ("gemma3_text", "gemma3"):
        raise ValueError(
            "The `model_type` of config.json must be 'gemma3_text' or 'gemma3'. "
            f"Received: model_type={kind!r} in {directory}"
        )
    found = read_safetensors(directory)
    for name, tensor in found.items():
        if str(tensor.dtype) not in _FLOATS:
            raise ValueError(
                f"Weights must be of one of the types {', '.join(_FLOATS)}; a quantized checkpoint "
                f"is read from a GGUF file. Received: {name} of type {tensor.dtype} in {directory}"
            )
    tensors = {_without_prefix(name): tensor for name, tensor in found.items()}
    if kind == "gemma3":
        is_tied = values.get("tie_word_embeddings", True)
        values = {"tie_word_embeddings": is_tied, **(values.get("text_config") or {})}
        for name in [name for name in tensors if name.startswith(_VISION_PREFIXES)]:
            del tensors[name]
    return values, tensors


def _without_prefix(name):
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _config(path, values):
    """The `BackboneConfig` of a model whose stacks are both the Gemma 3 of a `config.json`."""
    needed = {
        "use_bidirectional_attention": False,
        "attn_logit_softcapping": None,
        "tie_word_embeddings": True,
    }
    for key, value in needed.items():
        if values.get(key, value) != value:
            raise ValueError(
                f"The `{key}` of a Gemma 3 model must be {value}, as T5Gemma 2 has it. "
                f"Received: {key}={values[key]!r} in {path}"
            )
    parts = {"encoder": {"text_config": values}, "decoder": values}
    dropout = {"attention_dropout": values.get("attention_dropout", 0.0)}
    return config_from_transformers({"model_type": "t5gemma2", **parts, **dropout}, text_only=True)


def _tensors_by_path(path, config, tensors):
    """`StoredTensor` by variable path, each of Gemma 3's for both stacks."""
    names = {row: _gemma3_name(row.name) for row in rows(config)}
    end_of_image = next(row for row in names if row.path == "embedder/end_of_image")
    del names[end_of_image]
    _check_names(path, set(names.values()), tensors)
    _check_head(path, tensors)
    shape = (config.hidden_dim,)
    # A vector that Gemma 3 does not have, set once there is a table to take it from.
    vector = StoredTensor("end of image", shape, lambda: np.zeros(shape, "float32"))
    found = {row.path: _with_layout(tensors[name], row.layout) for row, name in names.items()}
    return {**found, end_of_image.path: vector}


def _gemma3_name(name):
    """Gemma 3's name for one of T5Gemma 2's: without the stack."""
    _, _, name = name.removeprefix("model.").partition(".")
    for ours, theirs in _OTHER_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _check_names(path, wanted, tensors):
    missing = sorted(wanted - set(tensors))
    unexpected = sorted(tensors[name].name for name in set(tensors) - wanted - {_HEAD})
    problems = [
        f"{kind} ({len(names)}): {list_names(names)}"
        for kind, names in (("Missing", missing), ("Unexpected", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"The tensors in {path} must be those of a Gemma 3 model of its sizes. "
            + ". ".join(problems)
        )


def _check_head(path, tensors):
    """A matrix for the logits may be there, as a copy of the embedding table."""
    head, table = tensors.get(_HEAD), tensors[_TABLE]
    if head is not None and not np.array_equal(head.read(), table.read()):
        raise ValueError(
            "The embedding table gives T5Gemma 2's logits too, so that a matrix of their own must "
            f"be a copy of it. Received: {head.name}, which differs from {table.name}, in {path}"
        )


def _with_layout(tensor, layout):
    return StoredTensor(tensor.name, tensor.shape, tensor.read, tensor.release, layout)


def _set_end_of_image(embedder):
    """Gives the end-of-image id the vector that it has in Gemma 3, so that nothing changes.

    T5Gemma 2 does not scale this vector. Gemma 3 scales it like all others, and in the dtype of
    the computation.
    """
    config = embedder.config
    if config.end_of_image_token_id < config.vocabulary_size:
        x = embedder.table(np.array([config.end_of_image_token_id]))[0]
        embedder.end_of_image.assign(x * ops.cast(config.hidden_dim**0.5, x.dtype))
