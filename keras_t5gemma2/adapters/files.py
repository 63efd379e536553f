"""Adapters in files: one by one, in the peft library's format, and those of a preset."""

import pathlib

from keras import ops

from keras_t5gemma2.checkpoints import adapter as stored_adapters
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.transformers import peft
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.finite import check_finite_arrays
from keras_t5gemma2.lora.config import LoRAConfig, check_adapter_name
from keras_t5gemma2.messages import shown


def stored(adapters, name):
    """The `StoredAdapter` of one of an `AdapterSet`."""
    adapters.check_known([name])
    return stored_adapters.adapter_of(adapters.backbone, name, adapters.configs[name])


def write(adapters, path, name):
    """Writes one adapter to one file, replaced whole or not at all."""
    backbone = adapters.backbone
    stored_adapters.write_adapter(path, stored(adapters, name), backbone.source)


def write_adalora(adapters, directory, name, form, metrics):
    """Writes an adapter of triplets into a directory for peft's AdaLoRA."""
    adapters.check_known([name])
    config = adapters.configs[name]
    if form != "adalora" or not config.triplets:
        raise ValueError(
            '`format` must be "lora", or "adalora" for an adapter that `AdaptiveRank` has made. '
            f"Received: format={shown(form)}, and the adapter {shown(name)}, "
            f"{'which has' if config.triplets else 'without'} triplets"
        )
    own = {p: x.adapters[name] for p, x in adapters.layers().items() if name in x.adapters}
    peft.write_adalora_adapter(directory, own, config, adapters.backbone, metrics)


def write_all(adapters, directory):
    """Writes each adapter into `adapters/` of a preset's directory."""
    for name in adapters.configs:
        write(adapters, pathlib.Path(directory, "adapters", f"{name}.safetensors"), name)


def load(adapters, path, name, allow_nonfinite=False):
    """Adds the adapter of a file, or of a directory of peft's, and makes it the active one."""
    if local_path(path).is_dir():
        found = peft.read_peft_adapter(path, adapters.backbone)
    else:
        found = stored_adapters.read_adapter(path)
    take(adapters, name, found, path, allow_nonfinite)


def load_of_preset(adapters, preset, allow_nonfinite=False):
    """Adds the adapters of a preset, if it has any."""
    if (found := formats.adapter_files(preset)) is not None:
        for name, path in found.paths.items():
            load(adapters, path, name, allow_nonfinite)
        adapters.choose(found.active)


def add_described(adapters, described):
    """Adds the adapters that a task's config describes, whose values Keras reads then."""
    for name, fields in described["configs"].items():
        adapters.add(name, LoRAConfig.from_file(fields, f"The adapter {shown(name)}"))
    adapters.choose(described["active"])


def take(adapters, name, found, origin, allow_nonfinite=False):
    """Adds a `StoredAdapter` and makes it the active one; if it fails, nothing has changed.

    Args:
        adapters: `AdapterSet`.
        name: string. An adapter of this name that is there takes the values.
        found: `StoredAdapter`.
        origin: where it was read from, which errors name.
        allow_nonfinite: bool. Whether values may be NaN or infinite.
    """
    check_adapter_name(name)
    adapters.check_not_merged("an adapter is loaded")
    stored_adapters.check_fits(found, adapters.backbone, origin)
    if not allow_nonfinite:
        check_finite_arrays(found.tensors, origin)
    own = adapters.configs.get(name, found.config)
    if own.plain() != found.config:
        raise ValueError(
            f"The adapter {shown(name)} must have the configuration of {origin} to take its "
            f"values. Received: {shown(own)} and {shown(found.config)}. Give another name, or "
            "call `remove_adapter` first."
        )
    variables = [v for layer in adapters.layers().values() for v in _variables(layer, name)]
    values = [ops.copy(variable) for variable in variables]
    try:
        with adapters.as_before_if_it_fails():
            if name not in adapters.configs:
                adapters.add(name, found.config)
            stored_adapters.assign(found, adapters.backbone, name)
            adapters.choose(name)
    except BaseException:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        raise


def _variables(layer, name):
    return list(layer.adapters[name].variables.values()) if name in layer.adapters else []
