"""Adapters that start from the kernels, from data, or from what quantization took."""

import contextlib
import dataclasses
import math

from keras_t5gemma2.adapters.activations import principal_inputs
from keras_t5gemma2.checkpoints.sources import UNKNOWN, preset_of
from keras_t5gemma2.lora import starts, targets
from keras_t5gemma2.lora.principal import shared_ranks
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone

# How many times its rank a layer can get, where ranks go by the data (EVA, arXiv 2410.07170).
_MOST = 2


def add_adapter(task, name, config, data=None, base=None):
    """Adds an adapter to a task with the values that its configuration asks for; not yet active.

    Args:
        task: task whose `adapter_set` gets the adapter.
        name: string.
        config: `LoRAConfig`.
        data: rows, for `init="eva"`.
        base: what the model was before it was quantized, for `init="loftq"`.
    """
    _check_given(config, data, base)
    adapters = task.adapter_set
    if config.init == "eva":
        adapters.check_not_merged("an adapter is added")
        config, found = of_data(task, config, data)
    adapters.add(name, config)
    layers = {path: x for path, x in adapters.layers().items() if name in x.adapters}
    if config.init == "loftq":
        _await_or_take_residuals(task, name, layers, base)
    for path, layer in layers.items():
        if config.init == "eva":
            a = layer.adapters[name].a
            a.assign(found[path].components[: a.shape[1]].T)
        elif config.init not in (None, "loftq"):
            starts.start(layer, name, config.init)


def of_data(task, config, data):
    """The configuration with ranks by data, and the `Principal` of each layer.

    The ranks add up to what they did before, and the scales stay.
    """
    config, paths = targets.resolve_config(config, task.backbone)
    layers = targets.dense_layers(task.backbone)
    most = {path: min(_MOST * config.rank_of(path), *layers[path].matrix_shape) for path in paths}
    with without_adapters(task):
        found = principal_inputs(task, data, most)
    shares = {path: found[path].shares[: most[path]] for path in paths}
    ranks = shared_ranks(shares, sum(config.rank_of(path) for path in paths))
    power = 0.5 if config.use_rslora else 1
    alphas = {
        path: config.alpha_of(path) * math.pow(rank / config.rank_of(path), power)
        for path, rank in ranks.items()
        if rank
    }
    return dataclasses.replace(config, rank_pattern=ranks, alpha_pattern=alphas), found


@contextlib.contextmanager
def without_adapters(task):
    """Inside, calls of the backbone compute what the base model does."""
    layers = list(task.adapter_set.layers().values())
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = {}
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer.active = active


def _check_given(config, data, base):
    if (config.init == "eva") != (data is not None):
        raise ValueError(
            '`data`, rows as `fit` takes them, must be given with `init="eva"` and with nothing '
            f"else. Received: init={shown(config.init)}, data={shown(data)}"
        )
    if base is not None and config.init != "loftq":
        raise ValueError(
            '`base` must be given with `init="loftq"` only. Received: '
            f"init={shown(config.init)}, base={shown(base)}"
        )


def _await_or_take_residuals(task, name, layers, base):
    quantized = {path: x for path, x in layers.items() if x.quantization_mode is not None}
    for path in layers.keys() - quantized.keys():
        layers[path].await_residual(name)
    if not quantized:
        return
    kernels = _float_layers(task, base)
    for path, layer in quantized.items():
        layer.start_from_residual(name, starts.float_kernel(kernels[path]))


def _float_layers(task, base):
    """The dense layers of the model before it was quantized, by path."""
    if base is None:
        base = task.backbone.source
        if base in (None, UNKNOWN):
            raise ValueError(
                '`init="loftq"` needs the weights from before they were quantized, and it is '
                "not known where these are. Received: base=None. Give the preset or the model as "
                '`base`, or call `enable_lora(init="loftq")` before `quantize`.'
            )
        base = preset_of(base)
    if isinstance(base, str) or hasattr(base, "__fspath__"):
        base = T5Gemma2Backbone.from_preset(base, text_only=True)
    found = targets.dense_layers(getattr(base, "backbone", base))
    own = targets.dense_layers(task.backbone)
    problem = next(
        (
            path
            for path, layer in own.items()
            if path not in found
            or found[path].quantization_mode is not None
            or found[path].matrix_shape != layer.matrix_shape
        ),
        None,
    )
    if problem is not None:
        raise ValueError(
            "`base` must be the same model in floats. Received: one without a float kernel of "
            f"shape {own[problem].matrix_shape} at {problem}"
        )
    return found
