"""One adapter as one small safetensors file, its tensors named by the paths of their layers."""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from keras_t5gemma2.checkpoints.cards import GEMMA_NOTICE, Card
from keras_t5gemma2.checkpoints.sources import is_of_gemma, license_of, preset_of
from keras_t5gemma2.files.atomic import atomic_file
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.safetensors import read_safetensors_file
from keras_t5gemma2.files.tensors import list_names
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.config import LoRAConfig
from keras_t5gemma2.lora.plain import plain_adapter
from keras_t5gemma2.messages import shown

# The key of the configuration in the file's metadata, and what it is the configuration of.
_CONFIG, _FORMAT = "config", "keras_t5gemma2.lora"
_VERSION = 1


class StoredAdapter(NamedTuple):
    """An adapter outside of a model."""

    config: LoRAConfig
    # Arrays by the layer's path and "lora_a" (in, rank), "lora_b" (rank, out) or "magnitude"
    # (out,), as in "decoder/layer_0/attention/query/lora_a".
    tensors: dict


def adapter_of(backbone, name, config):
    """The `StoredAdapter` of a model's adapter, which is plain LoRA whatever its kind."""
    return StoredAdapter(*plain_adapter(backbone, name, config))


def check_fits(stored, backbone, origin):
    """Raises where an adapter is none of this model's, and says what differs.

    Args:
        stored: `StoredAdapter`.
        backbone: `T5Gemma2Backbone`.
        origin: what errors call the file.
    """
    layers = targets.dense_layers(backbone)
    paths = {_layer_path(key) for key in stored.tensors}
    problems = []
    if unknown := sorted(paths - set(layers)):
        problems.append(f"the model has no {list_names(unknown)}")
    elif missing := sorted(set(targets.resolve(stored.config.target, backbone)) - paths):
        problems.append(f"it has nothing for the model's {list_names(missing)}")
    wanted = {}
    for path in sorted(paths & set(layers)):
        wanted |= {f"{path}/{k}": v for k, v in _shapes(layers[path], stored.config).items()}
    for key in sorted(wanted.keys() | {k for k in stored.tensors if _layer_path(k) in layers}):
        given = tuple(stored.tensors[key].shape) if key in stored.tensors else None
        if given != wanted.get(key):
            problems.append(f"{key} must be {wanted.get(key)} and is {given}")
    if problems:
        raise ValueError(
            f"An adapter must have been made for a model of the same sizes. Received: {origin}, "
            f"which does not fit: {list_names(problems)}"
        )


def assign(stored, backbone, name):
    """Gives a model's adapter, which has the right shapes, the values of `stored`."""
    for path, layer in targets.dense_layers(backbone).items():
        if name in layer.adapters:
            for part, variable in layer.adapters[name].variables.items():
                variable.assign(np.asarray(stored.tensors[f"{path}/{part}"], "float32"))


def adapter_card(path, config, source):
    """The `Card` of a file that `write_adapter` writes.

    Args:
        path: path of the file.
        config: dict, the configuration of the adapter.
        source: what the weights of the model derive from that it was trained on.
    """
    path = pathlib.Path(path)
    base = preset_of(source)
    return Card(
        title=path.stem,
        what=(
            f"An adapter (LoRA of rank {config['rank']}) for a T5Gemma 2 model, trained with "
            "keras_t5gemma2."
        ),
        usage=(
            f'lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("{base}")\n'
            f'lm.load_adapter("{path.name}")'
        ),
        library="keras_t5gemma2",
        source=source,
        tags=("lora", "adapter"),
    )


def write_adapter(path, stored, source=None):
    """Writes an adapter to a file, which is replaced whole or not at all.

    Args:
        path: path of the file.
        stored: `StoredAdapter`.
        source: what the weights of the model derive from that it was trained on.
    """
    from safetensors.numpy import save_file

    tensors = {key: np.ascontiguousarray(array) for key, array in stored.tensors.items()}
    about = {"format": _FORMAT, "version": _VERSION, **stored.config.to_dict()}
    with atomic_file(path) as temporary:
        save_file(tensors, str(temporary), {_CONFIG: json.dumps(about), **_terms(source)})


def read_adapter(path):
    """The `StoredAdapter` of a file that `write_adapter` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or none of an adapter.
    """
    from safetensors import safe_open

    path = local_path(path)
    tensors = read_values(read_safetensors_file(path), path)
    with safe_open(str(path), "numpy") as file:
        metadata = file.metadata() or {}
    about = _parsed(metadata.get(_CONFIG, "{}"), path)
    if about.pop("format", None) != _FORMAT:
        raise ValueError(
            "An adapter must be a file that `save_adapter` wrote. Received: "
            f"{path}, without its mark. A directory that peft wrote is read by "
            "`load_peft_adapter`."
        )
    if (version := about.pop("version", None)) != _VERSION:
        raise ValueError(
            f"An adapter must be of version {_VERSION}, or a later release of this package is "
            f"needed. Received: {path}, of version {shown(version)}"
        )
    target = about.get("target", "text")
    if isinstance(target, str) and target != "text":  # an expression, of an earlier release
        about["target"] = list(dict.fromkeys(map(_layer_path, tensors)))
    return StoredAdapter(LoRAConfig.from_file(about, path), tensors)


def read_values(tensors, path):
    """The arrays of a dict of `FileTensor`.

    Raises:
        ValueError: one holds no floats.
    """
    for tensor in tensors.values():
        if tensor.dtype.kind in "iub":
            raise ValueError(
                f"The weights of an adapter must be floats. Received: {path}, with "
                f"{shown(tensor.name)} of {tensor.dtype}"
            )
    return {name: tensor.read() for name, tensor in tensors.items()}


def _parsed(text, path):
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} must be JSON: {shown(str(error))}") from error
    if not isinstance(about, dict):
        raise ValueError(f"The metadata of {path} must be an object. Received: {shown(about)}")
    return about


def _terms(source):
    """The metadata of a file about the terms of its weights, where there are any."""
    if source is None:
        return {}
    notice = {"notice": GEMMA_NOTICE} if is_of_gemma(source) else {}
    return {"source": source, "license": license_of(source), **notice}


def _shapes(layer, config):
    width, units = layer.input_spec.axes[-1], layer.units
    rank = config.rank_of(layer.path)
    shapes = {"lora_a": (width, rank), "lora_b": (rank, units)}
    return {**shapes, "magnitude": (units,)} if config.use_dora else shapes


def _layer_path(key):
    return key.rpartition("/")[0]
