"""What a model takes of each device's memory, computed from its sizes before anything is loaded."""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_t5gemma2 import cache as caches
from keras_t5gemma2 import sharding
from keras_t5gemma2.backbone import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.streaming import shapes_only
from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    VisionConfig,
    interleave,
)
from keras_t5gemma2.kernels import CHUNK_BYTES
from keras_t5gemma2.kernels.blocked import KEYS, QUERIES
from keras_t5gemma2.layers import TOKENS_AT_A_TIME
from keras_t5gemma2.lora import targets
from keras_t5gemma2.messages import shown
from keras_t5gemma2.tasks import decoding
from keras_t5gemma2.tasks.generation import size_of

MODES = ("inference", "fit", "lora")

# Width, MLP's width, layers of a stack, query heads, key heads, window of the sliding layers.
_PUBLISHED = {
    "t5gemma2_270m_270m": (640, 2048, 18, 4, 1, 512),
    "t5gemma2_1b_1b": (1152, 6912, 26, 4, 1, 512),
    "t5gemma2_4b_4b": (2560, 10240, 34, 8, 4, 1024),
}
_AXES = ("batch", "model")
_INT32 = _FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes of the fullest device.

    Args:
        weights: int. Of the model, adapters included.
        optimizer: int. What the optimizer keeps for each weight that it trains.
        gradients: int. Of the weights that are trained.
        cache: int. What `generate` keeps: the encoder's output as the decoder sees it, and the
            decoder's own keys and values.
        activations: int. The most that is held of intermediate values at one time.
    """

    weights: int
    optimizer: int = 0
    gradients: int = 0
    cache: int = 0
    activations: int = 0

    @property
    def total(self):
        return sum(dataclasses.astuple(self))

    def fits(self, memory):
        """Whether all of it is at most `memory` bytes."""
        return self.total <= memory


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done with a model, and on what.

    Args:
        mode: "inference" for `generate`; "fit" to train all weights but the vision tower's; "lora"
            to train adapters on every projection of the text stacks.
        dtype: string, of the model, as in "bfloat16" or "mixed_bfloat16".
        encoder_length: int. Tokens of a row that the encoder reads.
        decoder_length: int. Tokens of a row that the decoder generates or is trained on.
        batch_size: int. Rows at a time, of all devices together.
        images: int. Images of a row.
        mesh: pair of ints. Devices along the data axis, and along the model axis.
        fsdp: bool. Whether what the model axis leaves whole is sharded over the data axis too.
        optimizer: name of a Keras optimizer, or a `keras.optimizers.Optimizer`.
        rank: int. Of the adapters.
        gradient_checkpointing: bool. As the backbone's.
        cross_attention_cache: "auto", "projected" or "shared". As the task's.

    Raises:
        ValueError: `mode` is none of the three, or a number is not positive.
    """

    mode: str = "inference"
    dtype: str = "bfloat16"
    encoder_length: int = 512
    decoder_length: int = 128
    batch_size: int = 1
    images: int = 0
    mesh: tuple[int, int] = (1, 1)
    fsdp: bool = False
    optimizer: str | keras.optimizers.Optimizer = "adam"
    rank: int = 16
    gradient_checkpointing: bool = True
    cross_attention_cache: str = "auto"

    def __post_init__(self):
        keras.DTypePolicy(self.dtype)  # raises where it is none
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={shown(self.mode)}")
        for name in ("encoder_length", "decoder_length", "batch_size", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}"
                )
        if len(self.mesh) != 2 or min(self.mesh) < 1:
            raise ValueError(
                "`mesh` must be two numbers of devices, along the data axis and along the model "
                f"axis. Received: mesh={shown(self.mesh)}"
            )

    @property
    def rows(self):
        """Rows of a batch on the device that has most of them."""
        return math.ceil(self.batch_size / self.mesh[0])

    @property
    def policy(self):
        return keras.DTypePolicy(self.dtype)


def plan(model, work, text_only=False):
    """The `Plan` of a model for some `Work`.

    Weights, optimizer, gradients and cache are exact: variables are those of the model, which is
    built without values, shared out as `T5Gemma2Backbone.get_layout_map` says. Activations are an
    estimate, made from programs in float32 that XLA compiled for a CPU, which it meets within a
    quarter; of inputs of 512 tokens and fewer it is up to 40 % too high. What the runtime itself
    takes and what its allocator cannot use are not in it: leave it a tenth of the memory.

    Args:
        model: `BackboneConfig`, or anything that `from_preset` takes. No weights are read.
        work: `Work`.
        text_only: bool. Whether the vision tower is left out.

    Raises:
        ValueError: there are images and no vision tower to read them.

    Example: a model that has 15 GB of weights, on a card of 16 GiB.

    >>> from keras_t5gemma2.planning import Work, plan
    >>> of_lora = plan("t5gemma2_4b_4b", Work("lora", batch_size=1), text_only=True)
    >>> of_lora.fits(16 * 2**30)
    True
    """
    config = config_of(model, text_only)
    if work.images and config.vision is None:
        raise ValueError(
            "Images need a model with a vision tower. Received: "
            f"images={shown(work.images)} and a model of text only"
        )
    weights = weights_of(config, work)
    share = _shares(config, work)
    of_weights = sum(share(w, w.num_bytes) for w in weights)
    if work.mode == "inference":
        return Plan(of_weights, cache=_cache(config, work), activations=_of_inference(config, work))
    trained = [weight for weight in weights if weight.is_trainable]
    return Plan(
        of_weights,
        optimizer=sum(share(w, w.num_bytes_of_slots(work.optimizer)) for w in trained),
        gradients=sum(share(w, w.num_bytes) for w in trained),
        activations=_of_training(config, work),
    )


def largest_batch(model, work, memory, text_only=False):
    """The largest batch size with which `work` fits devices of `memory` bytes; 0 if none does."""
    config = config_of(model, text_only)

    def fits(batch_size):
        return plan(config, dataclasses.replace(work, batch_size=batch_size)).fits(memory)

    if not fits(1):
        return 0
    size = 1
    while fits(2 * size) and size < 2**20:
        size *= 2
    low, high = size, 2 * size  # the first fits, the second does not
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# The sizes of a model ---------------------------------------------------------------------------


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


def _shares(config, work):
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


# What `generate` keeps --------------------------------------------------------------------------


def _cache(config, work):
    decoder, size = config.decoder, _compute_size(work)
    length = size_of(work.encoder_length, smallest=64)
    rows = work.rows
    is_shared = decoding.is_shared(
        work.cross_attention_cache, decoder, work.batch_size, length, size
    )
    positions = rows * length * _INT32
    heads = [math.ceil(a.num_kv_heads / _divides(a.num_kv_heads, work)) for a in decoder.layers]
    widths = [n * a.head_dim for n, a in zip(heads, decoder.layers, strict=True)]
    if is_shared:
        seen = rows * length * config.hidden_dim * size
        seen += sum(rows * n * length * _FLOAT32 for n in heads)
        seen += sum(2 * width * config.hidden_dim * size for width in widths)
    else:
        seen = sum(2 * width * rows * length * size for width in widths)
    counts = caches.slot_counts(decoder, 1 + size_of(work.decoder_length, smallest=32))
    own = sum(2 * width * rows * n * size for width, n in zip(widths, counts, strict=True))
    return seen + positions + own + rows * sum(set(counts)) * _INT32


# What is held of intermediate values --------------------------------------------------------------


def _of_inference(config, work):
    encoder_length = size_of(work.encoder_length, smallest=64)
    return max(
        _of_images(config, work),
        _forward_of_layer(config.encoder, work, work.rows * encoder_length, encoder_length),
        # The logits of a step, and what the sampler makes of them.
        3 * work.rows * config.vocabulary_size * _FLOAT32,
    )


def _of_training(config, work):
    size = _compute_size(work)
    read, written = (work.rows * length for length in (work.encoder_length, work.decoder_length))
    stacks = [(config.encoder, read), (config.decoder, written)]
    of_layers = [
        _kept_of_layer(stack, attention, work, tokens)
        for stack, tokens in stacks
        for attention in stack.layers
    ]
    if work.gradient_checkpointing:
        kept = sum(len(stack.layers) * tokens for stack, tokens in stacks)
        kept = kept * config.hidden_dim * size + max(of_layers)
    else:
        kept = sum(of_layers)
    scores = _of_scores(config.encoder, work, work.encoder_length)
    return max(_of_images(config, work), kept + scores + _of_loss(config, work, written))


def _kept_of_layer(stack, attention, work, tokens):
    """What the gradient of a layer needs. Measured, not counted: XLA keeps some of it twice."""
    heads = attention.num_heads * attention.head_dim / _divides(attention.num_heads, work)
    own = attention.num_kv_heads * attention.head_dim / _divides(attention.num_kv_heads, work)
    wide = stack.mlp_dim / _divides(stack.mlp_dim, work)
    numbers = tokens * (7.3 * stack.hidden_dim + 5.2 * heads + 1.3 * own + 3.1 * wide)
    return math.ceil(numbers * _compute_size(work))


def _forward_of_layer(stack, work, tokens, length):
    """What a layer computes at its widest place: the MLP, or tiles of scores. Measured, too."""
    size, attention = _compute_size(work), stack.layers[0]
    wide = stack.mlp_dim / _divides(stack.mlp_dim, work)
    at_once = tokens if length % TOKENS_AT_A_TIME else tokens * TOKENS_AT_A_TIME / length
    of_mlp = (6 * tokens * stack.hidden_dim + 5.5 * min(at_once, tokens) * wide) * size
    heads = attention.num_heads / _divides(attention.num_heads, work)
    numbers = tokens * (3 * stack.hidden_dim + 5 * heads * attention.head_dim)
    return math.ceil(max(of_mlp, numbers * size + _of_scores(stack, work, length)))


def _of_scores(stack, work, length):
    """Two tiles of the scores of all heads, in float32."""
    heads = stack.layers[0].num_heads
    heads /= _divides(heads, work)
    return 2 * work.rows * heads * min(QUERIES, length) * min(KEYS, length) * _FLOAT32


def _of_loss(config, work, tokens):
    """The logits of a chunk and their slopes, and the float32 gradient of the table."""
    vocabulary = config.vocabulary_size / _divides(config.vocabulary_size, work)
    chunk = min(tokens, max(1, CHUNK_BYTES // (_FLOAT32 * config.vocabulary_size)))
    of_logits = 2 * chunk * vocabulary * _FLOAT32
    of_table = vocabulary * config.hidden_dim * _FLOAT32 if work.mode == "fit" else 0
    return math.ceil(of_logits + of_table)


def _of_images(config, work):
    """A layer of the vision tower, all images of a batch at once."""
    vision, count = config.vision, work.rows * work.images
    if not count:
        return 0
    patches = count * vision.patches_per_side**2
    numbers = max(3 * vision.hidden_dim + 2 * vision.mlp_dim, 7 * vision.hidden_dim)
    pixels = count * vision.image_size**2 * 3 * _FLOAT32
    return patches * numbers * _compute_size(work) + pixels


def _compute_size(work):
    return np.dtype(work.policy.compute_dtype).itemsize


def _divides(count, work):
    """Parts that the model axis makes of an axis of `count`: one where it does not divide it."""
    return work.mesh[1] if count % work.mesh[1] == 0 else 1
