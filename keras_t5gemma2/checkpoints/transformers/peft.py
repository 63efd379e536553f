"""Adapters in the format of the peft library: read, and written for it to read."""

import json

import numpy as np

from keras_t5gemma2.checkpoints.adapter import StoredAdapter, read_values
from keras_t5gemma2.checkpoints.cards import Card, write_card
from keras_t5gemma2.checkpoints.sources import preset_of
from keras_t5gemma2.checkpoints.transformers import adalora, names, peft_patterns
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.layout import AS_IS, LINEAR
from keras_t5gemma2.files.safetensors import read_safetensors_file
from keras_t5gemma2.files.tensors import list_names
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.config import LoRAConfig
from keras_t5gemma2.messages import shown, warn

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."
# The ends of peft's names, and what each tensor is here: (out, in) there, (in, out) here.
_PARTS = {
    ".lora_A.weight": ("lora_a", LINEAR),
    ".lora_B.weight": ("lora_b", LINEAR),
    ".lora_magnitude_vector": ("magnitude", AS_IS),
}
_OF_CONFIG = {
    **{"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"},
    **{"use_rslora": "use_rslora", "use_dora": "use_dora"},
}
# Keys that say nothing about the adapter itself: the tensors tell which layers it is on.
_ABOUT = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "init_lora_weights", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "eva_config"),
    *("loftq_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size"),
    *("ensure_weight_tying", "fan_in_fan_out"),
}
_OF_ADALORA = (
    *("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    "total_step",
)
# What an adapter may start from; the other ways change the base weights too.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def write_peft_adapter(directory, stored, backbone, place=None, metrics=None):
    """Writes an adapter so that `peft.PeftModel.from_pretrained(model, directory)` reads it.

    Args:
        directory: path of the directory, whose other files stay.
        stored: `StoredAdapter`.
        backbone: `T5Gemma2Backbone` that it is of.
        place: path of the directory that its files go to in the end; by default the same.
        metrics: dict of numbers by name, of training, for the README.
    """
    modules = _modules_by_path(backbone.config)
    ends = {part: (end, layout) for end, (part, layout) in _PARTS.items()}
    tensors = {}
    for key, array in stored.tensors.items():
        path, _, part = key.rpartition("/")
        end, layout = ends[part]
        # Layouts of matrices are their own inverses.
        tensors[_PREFIX + modules[path] + end] = np.ascontiguousarray(layout.to_variable(array))
    targeted = {key.rpartition("/")[0] for key in stored.tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        # Whole names: peft would find the last parts of them in the vision tower, too.
        "target_modules": [modules[path] for path in modules if path in targeted],
        **{key: getattr(stored.config, field) for key, field in _OF_CONFIG.items()},
        **peft_patterns.written(
            stored.config, {path: modules[path] for path in modules if path in targeted}
        ),
    }
    _write(directory, tensors, config, stored.config.rank, backbone, place, metrics)


def write_adalora_adapter(directory, adapters, own, backbone, metrics=None):
    """Writes an adapter of triplets as peft's AdaLoRA.

    Args:
        directory: path of the directory, whose other files stay.
        adapters: dict of `Adapter` by the paths of their layers.
        own: `LoRAConfig` of the adapter.
        backbone: `T5Gemma2Backbone` that it is of.
        metrics: dict of numbers by name, of training, for the README.
    """
    modules = _modules_by_path(backbone.config)
    tensors, fields = adalora.adalora_files(adapters, own, modules)
    about = {"task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": None, "inference_mode": True}
    config = {**fields, **about, "target_modules": [modules[path] for path in adapters]}
    _write(directory, tensors, config, own.rank, backbone, None, metrics)


def _write(directory, tensors, config, rank, backbone, place, metrics):
    from safetensors.numpy import save_file

    with atomic_directory(directory, written_last=CONFIG_FILE) as temporary:
        save_file(tensors, str(temporary / WEIGHTS_FILE), {"format": "pt"})
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
        place = local_path(place or directory).resolve()
        write_card(temporary, _card(place.name, rank, backbone, metrics), place)


def _card(name, rank, backbone, metrics):
    source, generation = backbone.source, backbone.generation
    model = "AutoModelForImageTextToText" if generation == 2 else "AutoModelForSeq2SeqLM"
    base = preset_of(source).removeprefix("hf://")
    return Card(
        title=name,
        what=(
            f"An adapter (LoRA of rank {rank}) for a T5Gemma {generation} model, "
            "trained with keras_t5gemma2, in the format of the peft library."
        ),
        usage=(
            f'model = transformers.{model}.from_pretrained("{base}")\n'
            f'model = peft.PeftModel.from_pretrained(model, "{name}")\n'
            f'# In Keras: lm.load_peft_adapter("{name}")'
        ),
        library="peft",
        source=source,
        tags=("lora", "adapter"),
        metrics=metrics or {},
    )


def read_peft_adapter(directory, backbone):
    """The `StoredAdapter` of a directory that peft wrote.

    Args:
        directory: path of the directory.
        backbone: `T5Gemma2Backbone` that it is for.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no adapter of this kind, or it is on layers that take none here.
    """
    directory = local_path(directory)
    fields = read_json(directory, CONFIG_FILE)
    is_adalora = fields.get("peft_type") == "ADALORA"
    _check_config(fields, directory)
    if not (directory / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"An adapter of peft must have its weights in {WEIGHTS_FILE}. Received: {directory}, "
            "without it. Save it again with `safe_serialization=True`."
        )
    path = directory / WEIGHTS_FILE
    arrays = read_values(read_safetensors_file(path), path)
    if is_adalora:
        arrays, fields = adalora.as_lora(arrays, fields, path)
    tensors = _by_path(_without_tower(arrays, path), backbone, directory)
    layers = targets.dense_layers(backbone)
    paths = {key.rpartition("/")[0] for key in tensors}
    own = {field: fields[key] for key, field in _OF_CONFIG.items() if key in fields}
    own |= peft_patterns.read(
        fields, tensors, _modules_by_path(backbone.config), directory / CONFIG_FILE
    )
    target = targets.describe([path for path in layers if path in paths], backbone)
    own["target"] = target if isinstance(target, str) else list(target)
    return StoredAdapter(LoRAConfig.from_file(own, directory / CONFIG_FILE), tensors)


def _without_tower(arrays, path):
    """`arrays` without what peft puts on the vision tower and training on text leaves at zero."""
    tower = [name for name in arrays if names.is_vision_name(_canonical(name))]
    trained = [
        name
        for name in tower
        # A product with B = 0 adds nothing. Lengths of columns may have been trained.
        if not name.endswith(".lora_A.weight")
        and (np.any(arrays[name]) or name.endswith(".lora_magnitude_vector"))
    ]
    if trained or not tower:
        return arrays  # whose names `_by_path` refuses
    warn(
        f"The adapter in {path} has {len(tower)} tensors on the vision tower, which add nothing: "
        "they were left out. `exclude_modules='.*vision_tower.*'` keeps peft off the tower."
    )
    return {name: array for name, array in arrays.items() if name not in tower}


def _check_config(fields, directory):
    if fields.get("peft_type") not in ("LORA", "ADALORA"):
        raise ValueError(
            "An adapter of peft must be of the type LORA or ADALORA. Received: "
            f"peft_type={shown(fields.get('peft_type'))} in {directory / CONFIG_FILE}"
        )
    problems = [
        f"{shown(key)[1:-1]}={shown(value)}"
        for key, value in fields.items()
        if value
        and key not in _ABOUT
        and key not in (*_OF_CONFIG, "rank_pattern", "alpha_pattern")
        and not (fields["peft_type"] == "ADALORA" and key in _OF_ADALORA)
        and (key, value) != ("bias", "none")
    ]
    if (start := fields.get("init_lora_weights", True)) not in _STARTS:
        problems.append(f"init_lora_weights={shown(start)}, which changes the base weights")
    if problems:
        raise ValueError(
            "An adapter of peft must be plain LoRA, rsLoRA or DoRA, and train "
            f"nothing else. Received: {list_names(problems)} in {directory / CONFIG_FILE}. Merge "
            "it there, and load the whole model."
        )


def _by_path(arrays, backbone, directory):
    """Arrays by the paths of our layers, from those by peft's names."""
    paths = _paths_by_module(backbone.config)
    modules = {names.canonical_name(f"{module}.weight"): path for module, path in paths.items()}
    tensors, unknown = {}, []
    for name, array in arrays.items():
        end = next((end for end in _PARTS if name.endswith(end)), None)
        path = modules.get(_canonical(name))
        if end is None or path is None:
            unknown.append(name)
            continue
        part, layout = _PARTS[end]
        tensors[f"{path}/{part}"] = layout.to_variable(array)
    if unknown:
        raise ValueError(
            "An adapter of peft must be on the dense layers of encoder and decoder only, never "
            "on the vision tower, the norms or the embedding table, and must have been made for "
            f"a model of as many layers. Received: {directory / WEIGHTS_FILE}, with "
            f"{list_names(sorted(unknown))}. `exclude_modules='.*vision_tower.*'` keeps peft off "
            "the tower."
        )
    return tensors


def _canonical(name):
    """The canonical name of the weight that a tensor of peft's belongs to."""
    end = next((end for end in _PARTS if name.endswith(end)), "")
    return names.canonical_name(f"{name.removeprefix(_PREFIX).removesuffix(end)}.weight")


def _modules_by_path(config):
    return {path: module for module, path in _paths_by_module(config).items()}


def _paths_by_module(config):
    """Dict from the reference's names of the modules that take adapters to our paths."""
    return {
        names.module_name(row.name, config.generation): row.path.removesuffix("/kernel")
        for row in names.rows(config)
        if row.path.endswith("/kernel") and not names.is_vision_name(row.name)
    }
