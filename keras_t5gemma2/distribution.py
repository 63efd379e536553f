"""How a model is spread over several devices, on Keras's own `keras.distribution`.

A mesh has two axes. Rows of a batch are spread over the data axis; vocabulary, attention heads and
the width of the MLPs over the model axis, so that a device computes its part of each product and
the parts are added up. What does not divide stays whole on every device.
"""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_t5gemma2.checkpoints.formats import class_for
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.kernels.runtime.host_memory import device_memory
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.model.t5gemma1 import T5GemmaBackbone
from keras_t5gemma2.sharding import layouts as sharding
from keras_t5gemma2.sharding.layout_map import ModelParallel, get_layout_map
from keras_t5gemma2.typing import PathLike

# The recipe ------------------------------------------------------------------------------------


def distribute(
    config: BackboneConfig | PathLike | None = None,
    model_parallel: int | None = None,
    fsdp: bool | None = None,
    context_parallel: bool = False,
    devices: Sequence[Any] | None = None,
    verbose: bool = True,
) -> Any:
    """Spreads the models that are made from now on over the devices, on JAX.

    Call it before a model is made. The mesh has the axes "batch", over which rows are spread, and
    "model", over which weights are; the map is that of `T5Gemma2Backbone.get_layout_map`.
    `fit`, `evaluate`, `predict` and `generate` take any number of rows: a batch is filled up
    where the axis does not divide it, by rows that do not count, and a single row is computed by
    all devices together.

    Args:
        config: of the model that will be made, `BackboneConfig` or what `from_preset` takes: it
            says how much there is to spread. If `None`, nothing is known of the model.
        model_parallel: int, the size of the model axis. By default 1; or, where the weights would
            take more than half of a device's memory, the least divisor of the number of devices
            with which they do not, and that divides the attention heads.
        fsdp: bool. Whether weights and the optimizer's state are also spread over the "batch"
            axis. By default only if the weights are still too large. Training all weights, give
            `True`: gradients and the state of Adam are several times as large as the weights.
        context_parallel: bool. Whether the tokens of a single row are spread over the "batch"
            axis in the encoder: for inputs too long for one device.
        devices: list of names as `keras.distribution.list_devices()` gives, which it is by
            default.
        verbose: bool. Whether to print what was chosen.

    Returns:
        The `keras.distribution.ModelParallel` that was set. `keras.distribution.set_distribution(
        None)` ends it for models made afterwards.

    Raises:
        NotImplementedError: the backend is not JAX.
        ValueError: `model_parallel` does not divide the number of devices.

    Example:

    >>> from keras_t5gemma2 import distribution
    >>> devices = keras.distribution.list_devices()[:1]
    >>> found = distribution.distribute("t5gemma2_tiny", devices=devices, verbose=False)
    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> found.device_mesh.shape
    (1, 1)
    """
    if keras.config.backend() != "jax":
        raise NotImplementedError(
            "Keras distributes models on JAX only. Received: backend="
            f"{keras.config.backend()!r}. Set KERAS_BACKEND=jax before Keras is imported"
        )
    devices = keras.distribution.list_devices() if devices is None else list(devices)
    model = None if config is None else _shapes(config)
    memory = device_memory(devices[0])
    if model_parallel is None:
        model_parallel = _model_parallel(model, memory, len(devices))
    _check_divides(model_parallel, len(devices))
    shape = (len(devices) // model_parallel, model_parallel)
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)
    if fsdp is None:
        fsdp = model is not None and not _fits(_bytes(model) / model_parallel, memory)
    found = get_layout_map(mesh, fsdp=fsdp, context_parallel=context_parallel)
    distribution = ModelParallel(layout_map=found, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)
    if verbose:
        print(_description(distribution, model, fsdp, context_parallel))
    return distribution


def _shapes(config):
    """A model without values."""

    def build():
        if isinstance(config, BackboneConfig):
            return (T5Gemma2Backbone if config.generation == 2 else T5GemmaBackbone)(config)
        return class_for(T5Gemma2Backbone, config).from_preset(config, load_weights=False)

    with _set(None):
        return shapes_only(build)


@contextlib.contextmanager
def _set(distribution):
    given = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(given)


def _model_parallel(model, memory, count):
    if model is None or memory is None:
        return 1
    heads = [a.num_heads for s in model.config.stacks.values() for a in s.layers]
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    divisors = [n for n in divisors if all(number % n == 0 for number in heads)]
    return next((n for n in divisors if _fits(_bytes(model) / n, memory)), divisors[-1])


def _check_divides(model_parallel, count):
    if not isinstance(model_parallel, int) or model_parallel < 1 or count % model_parallel:
        raise ValueError(
            f"`model_parallel` must divide the number of devices, which is {count}. Received: "
            f"model_parallel={shown(model_parallel)}"
        )


def _fits(num_bytes, memory):
    return memory is None or num_bytes <= memory / 2


def _bytes(model):
    return sum(_size(variable) for variable in model.weights)


def _size(variable, parts=1):
    return int(np.prod(variable.shape)) // parts * np.dtype(variable.dtype).itemsize


def bytes_per_device(model, distribution):
    """Bytes of the weights of a `T5Gemma2Backbone` that each device holds.

    Args:
        model: `T5Gemma2Backbone`, which needs no values.
        distribution: `keras.distribution.ModelParallel`.
    """
    sizes = sharding.axis_sizes(distribution.device_mesh)
    total = 0
    for variable, layout in _layouts(model, distribution):
        total += _size(variable, int(np.prod([sizes[axis] for axis in layout.axes if axis])))
    return total


def _layouts(model, distribution):
    """Each weight, with its layout."""
    for variable in model.weights:
        wanted = distribution.get_tensor_layout(variable.path)
        if wanted is None:
            wanted = keras.distribution.TensorLayout((), distribution.device_mesh)
        yield variable, sharding.fitted(wanted, variable, model.config)


def _description(distribution, model, fsdp, context_parallel):
    devices = distribution.device_mesh.devices.size
    kind = str(distribution.device_mesh.devices.flat[0]).split(":")[0]
    rows, parts = distribution.device_mesh.shape
    lines = [f"{devices} {kind} devices: rows over {rows}, weights over {parts}"]
    if fsdp:
        lines[0] += f" and, by their width, over the {rows} (FSDP)"
    if context_parallel:
        lines.append(f"The tokens of a single row are spread over {rows} in the encoder")
    if model is not None:
        share, whole = bytes_per_device(model, distribution), _bytes(model)
        lines.append(f"Weights: {_megabytes(share)} on each device, of {_megabytes(whole)}")
        if parts > 1 and (names := _left_whole(model, distribution)):
            lines.append(f"Not divided by {parts}, and whole on every device: {names}")
    return "\n".join(lines)


def _megabytes(count):
    return f"{count / 1e6:,.1f} MB"


def _left_whole(model, distribution):
    """Names of the weights that the map would spread over the model axis and that do not divide."""
    names = []
    for variable, layout in _layouts(model, distribution):
        wanted = distribution.get_tensor_layout(variable.path)
        if wanted is not None and "model" in wanted.axes and "model" not in layout.axes:
            names.append("/".join(variable.path.split("/")[-3:]))
    names = [re.sub("layer_[0-9]+/", "", name) for name in names]
    return ", ".join(dict.fromkeys(names))
