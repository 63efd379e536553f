"""The weights of a model that is not built, and their shares of each device."""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_t5gemma2.checkpoints.formats import class_for
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
from keras_t5gemma2.model.t5gemma1 import T5GemmaBackbone
from keras_t5gemma2.registry import generation_of, presets
from keras_t5gemma2.sharding import layouts as sharding

# Width, MLP's width, layers of a stack, query heads, key heads, window of the sliding layers.
_PUBLISHED = {
    "t5gemma2_270m_270m": (640, 2048, 18, 4, 1, 512),
    "t5gemma2_1b_1b": (1152, 6912, 26, 4, 1, 512),
    "t5gemma2_4b_4b": (2560, 10240, 34, 8, 4, 1024),
}
# Of a stack of T5Gemma 1: width, MLP's width, layers, query heads, key heads, width of a head.
_FIRST_SIZES = {
    "s": (512, 1024, 8, 8, 8, 64),
    "b": (768, 2048, 12, 12, 12, 64),
    "l": (1024, 2816, 24, 16, 16, 64),
    "ml": (1152, 6912, 26, 4, 4, 256),
    "xl": (2048, 5120, 24, 32, 32, 64),
    "2b": (2304, 9216, 26, 8, 4, 256),
    "9b": (3584, 14336, 42, 16, 8, 256),
}
_FIRST = {
    name: tuple(name.split("_")[1:3]) for name, row in presets.items() if generation_of(row) == 1
}
_AXES = ("batch", "model")


def config_of(model, text_only=False):
    """The `BackboneConfig` of anything that `from_preset` takes, or of such a config itself."""
    if isinstance(model, BackboneConfig):
        config = model
    elif str(model) in _PUBLISHED:
        config = _published(*_PUBLISHED[str(model)])
    elif str(model) in _FIRST:
        config = first_generation(*_FIRST[str(model)])
    else:
        cls = class_for(T5Gemma2Backbone, model)
        config = shapes_only(lambda: cls.from_preset(model, load_weights=False)).config
    return dataclasses.replace(config, vision=None) if text_only else config


def published_models():
    """The names of the published models whose sizes are known without a download.

    Of those of T5Gemma 1 that have the same sizes there is one.
    """
    of_sizes = {sizes: name for name, sizes in reversed(_FIRST.items())}
    return (*_PUBLISHED, *reversed(of_sizes.values()))


def _published(hidden_dim, mlp_dim, num_layers, num_heads, num_kv_heads, window):
    sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": 256}
    local = AttentionConfig(**sizes, window=window)
    full = AttentionConfig(**sizes, rope_theta=1_000_000.0, rope_factor=8.0)
    stack = StackConfig(hidden_dim, mlp_dim, interleave(local, full, num_layers))
    return BackboneConfig(262_144, stack, stack, VisionConfig())


def first_generation(encoder, decoder):
    """The `BackboneConfig` of a T5Gemma 1, of the names of the sizes of its stacks, as "9b"."""
    encoder, decoder = (_stack_of_size(size) for size in (encoder, decoder))
    layers = (
        dataclasses.replace(layer, window=layer.window and 2 * layer.window - 1)
        for layer in encoder.layers
    )
    encoder = dataclasses.replace(encoder, layers=tuple(layers))  # as many tokens to the right
    decoder = dataclasses.replace(decoder, cross_attention_dim=encoder.hidden_dim)
    return BackboneConfig(256_000, encoder, decoder, None, None, None, 30.0, decoder_table=True)


def _stack_of_size(size):
    hidden_dim, mlp_dim, num_layers, num_heads, num_kv_heads, head_dim = _FIRST_SIZES[size]
    rules = {"query_pre_attn_scalar": float(head_dim), "qk_norm": False, "soft_cap": 50.0}
    full = AttentionConfig(num_heads, num_kv_heads, head_dim, **rules)
    local = dataclasses.replace(full, window=4096)
    return StackConfig(hidden_dim, mlp_dim, interleave(local, full, num_layers, period=2))


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
    cls = T5Gemma2Backbone if config.generation == 2 else T5GemmaBackbone
    backbone = shapes_only(lambda: cls(config, dtype=dtype))
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
