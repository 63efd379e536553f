"""The weights of a model that is not built, and their shares of each device."""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    VisionConfig,
    interleave,
)
from keras_t5gemma2.lora import targets
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.sharding import layouts as sharding

# Width, MLP's width, layers of a stack, query heads, key heads, window of the sliding layers.
_PUBLISHED = {
    "t5gemma2_270m_270m": (640, 2048, 18, 4, 1, 512),
    "t5gemma2_1b_1b": (1152, 6912, 26, 4, 1, 512),
    "t5gemma2_4b_4b": (2560, 10240, 34, 8, 4, 1024),
}
_AXES = ("batch", "model")


def config_of(model, text_only=False):
    """The `BackboneConfig` of anything that `from_preset` takes, or of such a config itself."""
    if isinstance(model, BackboneConfig):
        config = model
    elif str(model) in _PUBLISHED:
        config = _published(*_PUBLISHED[str(model)])
    else:
        config = shapes_only(lambda: T5Gemma2Backbone.from_preset(model, load_weights=False)).config
    return dataclasses.replace(config, vision=None) if text_only else config


def published_models():
    """The names of the published models whose sizes are known without a download."""
    return tuple(_PUBLISHED)


def _published(hidden_dim, mlp_dim, num_layers, num_heads, num_kv_heads, window):
    sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": 256}
    local = AttentionConfig(**sizes, window=window)
    full = AttentionConfig(**sizes, rope_theta=1_000_000.0, rope_factor=8.0)
    stack = StackConfig(hidden_dim, mlp_dim, interleave(local, full, num_layers))
    return BackboneConfig(262_144, stack, stack, VisionConfig())


class Weight(NamedTuple):
    """A weight of a model that is not there."""

    path: str
    shape: tuple
    dtype: str
    is_trainable: bool
    kernel: Any = None  # of an adapter's weight, the `Weight` that it stands beside

    @property
    def num_bytes(self):
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def num_bytes_of_slots(self, optimizer):
        """What an optimizer keeps for it."""
        return sum(
            math.prod(self.shape[axis] for axis in axes) * np.dtype(self.dtype).itemsize
            for axes in _slots(optimizer, len(self.shape))
        )


def weights_of(config, work):
    """The `Weight`s of a model, adapters included."""
    weights, adaptable = _weights(config, work.dtype)
    if work.mode != "lora":
        return weights
    frozen = [weight._replace(is_trainable=False) for weight in weights]
    kernels = [weight for weight in weights if weight.path in adaptable]
    return [*frozen, *itertools.chain.from_iterable(_adapter(k, work.rank) for k in kernels)]


@functools.lru_cache
def _weights(config, dtype):
    """The `Weight`s, and the paths of the kernels that `enable_lora` means by default."""
    backbone = shapes_only(lambda: T5Gemma2Backbone(config, dtype=dtype))
    weights = [
        Weight(v.path, tuple(v.shape), keras.backend.standardize_dtype(v.dtype), v.trainable)
        for v in backbone.weights
    ]
    return weights, {f"{path}/kernel" for path in targets.resolve("text", backbone)}


def _adapter(kernel, rank):
    # As `lora.Dense` adds them: float32 whatever the policy.
    layer, (width, units) = kernel.path.removesuffix("kernel"), kernel.shape
    yield Weight(f"{layer}default_lora_a", (width, rank), "float32", True, kernel)
    yield Weight(f"{layer}default_lora_b", (rank, units), "float32", True, kernel)


@functools.lru_cache
def _slots(optimizer, rank):
    """Per slot of an optimizer for a weight of so many axes, which of these axes it has.

    Asked of the optimizer itself, with a weight whose sizes tell the axes apart.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = type(optimizer).from_config(optimizer.get_config())
    else:
        optimizer = keras.optimizers.get(optimizer)
    sizes = (2, 3, 5, 7, 11)[:rank]
    others = len(optimizer.variables)
    optimizer.build([keras.Variable(np.zeros(sizes, "float32"))])
    return [tuple(map(sizes.index, slot.shape)) for slot in optimizer.variables[others:]]


def shares(config, work):
    """A function from a `Weight` and a number of bytes to those of them on one device."""
    sizes = dict(zip(_AXES, work.mesh, strict=True))
    if work.mesh[1] == 1 and not work.fsdp:
        return lambda weight, num_bytes: num_bytes
    names = [f"cpu:{i}" for i in range(math.prod(work.mesh))]
    mesh = keras.distribution.DeviceMesh(work.mesh, _AXES, names)
    layouts = T5Gemma2Backbone.get_layout_map(mesh, fsdp=work.fsdp)

    def axes_of(weight):
        if weight.kernel is not None:  # of its two sizes, the one that the kernel has too
            axis_in, axis_out = axes_of(weight.kernel)
            return (axis_in, None) if weight.path.endswith("_a") else (None, axis_out)
        layout = layouts[weight.path]
        if layout is None:
            return (None,) * len(weight.shape)
        return sharding.fitted(layout, weight, config).axes

    def share(weight, num_bytes):
        return math.ceil(num_bytes / math.prod(sizes.get(axis, 1) for axis in axes_of(weight)))

    return share
