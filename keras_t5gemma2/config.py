"""Sizes of a model, as frozen objects that turn into JSON and back. Long by its docstrings."""

import collections
import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Self

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import (
    LARGEST,
    LARGEST_INTEGER,
    SMALLEST,
    integer,
    is_in_float32,
    number,
)


def _later(default):
    """A field that is not written where it has its default: files stay as they were without it."""
    return dataclasses.field(default=default, metadata={"is_later": True})


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Sizes and rules of one attention layer.

    Args:
        num_heads: int. Query heads.
        num_kv_heads: int. Key and value heads; each serves `num_heads // num_kv_heads`
            query heads.
        head_dim: int. Width of one head.
        window: int or `None`. Tokens that one query sees, itself included. `None` is full
            attention: a sliding layer without a window cannot be said.
        rope_theta: float. Base wavelength of the rotary embedding.
        rope_factor: float. Positions are divided by it (linear RoPE scaling).
        query_pre_attn_scalar: float. Scores are scaled by its inverse square root.
        dropout: float. Dropout of the attention probabilities, in training.
        norm_epsilon: float. Of the query and key norms.
        qk_norm: bool. Whether queries and keys of each head go through a norm. T5Gemma 1 has none.
        soft_cap: float or `None`. Scores become `cap * tanh(scores / cap)`, as in T5Gemma 1.

    Example:

    >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
    >>> config.encoder.layers[0]
    AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=32, window=16, query_pre_attn_scalar=32.0)
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    rope_theta: float = 10_000.0
    rope_factor: float = 1.0
    query_pre_attn_scalar: float = 256.0
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
    qk_norm: bool = _later(True)
    soft_cap: float | None = _later(None)

    def __repr__(self) -> str:
        return _short(self)

    def __post_init__(self) -> None:
        _take_numbers(self)
        _check_positive(self, "num_heads", "num_kv_heads", "head_dim")
        _check_positive(self, "rope_theta", "rope_factor", "query_pre_attn_scalar", "norm_epsilon")
        _check_dropout(self)
        _check_flag(self, "qk_norm")
        if self.soft_cap is not None:
            _check_positive(self, "soft_cap")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "`num_heads` must be a multiple of `num_kv_heads`, so that each key head serves "
                f"as many query heads. Received: num_heads={shown(self.num_heads)}, "
                f"num_kv_heads={shown(self.num_kv_heads)}"
            )
        if self.head_dim % 2:
            raise ValueError(
                "`head_dim` must be even: the rotary embedding turns its halves against each "
                f"other. Received: head_dim={shown(self.head_dim)}"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(
                "`window` must be at least 1 token, or `None` for full attention. "
                f"Received: window={shown(self.window)}"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration of a dict of the constructor's arguments.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> fields = config.to_dict()["encoder"]["layers"][0]
        >>> keras_t5gemma2.AttentionConfig.from_dict(fields) == config.encoder.layers[0]
        True
        """
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """How many MLPs a layer has, and how a token takes some of them. See `upcycle`.

    Args:
        num_experts: int. MLPs of a layer.
        top_k: int. How many of them a token takes.
        every: int. Every so many layers have experts: 2 means the second, the fourth, and so on.
        switch: bool. Whether a token takes one expert, times its probability, and the loss of
            balance is of each row, as in Switch Transformers.
        balance_loss: float. Weight, in training, of the loss that is smallest where each expert
            gets as many tokens.
        z_loss: float. Weight, in training, of the loss that keeps the router's logits small.

    Example:

    >>> keras_t5gemma2.ExpertsConfig(num_experts=8)
    ExpertsConfig(num_experts=8)
    """

    num_experts: int
    top_k: int = 2
    every: int = 2
    switch: bool = False
    balance_loss: float = 0.01
    z_loss: float = 0.001

    def __repr__(self) -> str:
        return _short(self)

    def __post_init__(self) -> None:
        _take_numbers(self)
        _check_positive(self, "num_experts", "top_k", "every")
        _check_flag(self, "switch")
        if self.top_k > (1 if self.switch else self.num_experts):
            most = "1 where `switch` is true" if self.switch else "the number of experts"
            raise ValueError(
                f"`top_k` must be at most {most}. Received: top_k={shown(self.top_k)}, "
                f"num_experts={shown(self.num_experts)}"
            )
        for name in ("balance_loss", "z_loss"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"`{name}` must be a number, and not negative. Received: "
                    f"{name}={shown(getattr(self, name))}"
                )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration of a dict of the constructor's arguments.

        Example:

        >>> keras_t5gemma2.ExpertsConfig.from_dict({"num_experts": 4, "top_k": 1})
        ExpertsConfig(num_experts=4, top_k=1)
        """
        return cls(**fields)

    def is_in(self, layer: int) -> bool:
        """Whether the layer of this number, counted from 0, has experts.

        Example:

        >>> experts = keras_t5gemma2.ExpertsConfig(num_experts=8)
        >>> [experts.is_in(layer) for layer in range(4)]
        [False, True, False, True]
        """
        return (layer + 1) % self.every == 0


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes of one stack of layers, the encoder's or the decoder's.

    Args:
        hidden_dim: int. Width of the hidden states.
        mlp_dim: int. Width of the gated MLP.
        layers: tuple of `AttentionConfig`, one per layer, first layer first. See `interleave`.
        norm_epsilon: float. Of the layer norms.
        dropout: float. Dropout of the hidden states, in training.
        cross_attention_dim: int or `None`. Of a decoder whose layers attend to the encoder's output
            apart from their own tokens, as in T5Gemma 1, the width of that output. `None` in an
            encoder, and in a decoder that attends to both at once.
        experts: `ExpertsConfig` where some layers have several MLPs, or `None`.

    Example:

    >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
    >>> config.decoder
    StackConfig(hidden_dim=128, mlp_dim=512, layers=<3: 2 of window 16, 1 full>)
    """

    hidden_dim: int
    mlp_dim: int
    layers: tuple[AttentionConfig, ...]
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    cross_attention_dim: int | None = _later(None)
    experts: ExpertsConfig | None = _later(None)  # noqa: RUF009

    def __post_init__(self) -> None:
        _take_numbers(self)
        _check_positive(self, "hidden_dim", "mlp_dim", "norm_epsilon")
        _check_dropout(self)
        if self.cross_attention_dim is not None:
            _check_positive(self, "cross_attention_dim")
        object.__setattr__(self, "layers", tuple(self.layers))
        for layer in self.layers:
            _check_kind("layers", layer, AttentionConfig)
        if self.experts is not None:
            _check_kind("experts", self.experts, ExpertsConfig)

    def __repr__(self) -> str:
        windows = collections.Counter(layer.window for layer in self.layers)
        kinds = [
            f"{count} {'full' if window is None else f'of window {window}'}"
            for window, count in windows.items()
        ]
        return _short(self, layers=f"<{len(self.layers)}: {', '.join(kinds)}>")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration that a `BackboneConfig` has as a dict.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> fields = config.to_dict()["encoder"]
        >>> keras_t5gemma2.StackConfig.from_dict(fields) == config.encoder
        True
        """
        layers = tuple(AttentionConfig.from_dict(layer) for layer in fields["layers"])
        experts = fields.get("experts")
        experts = None if experts is None else ExpertsConfig.from_dict(experts)
        return cls(**{**fields, "layers": layers, "experts": experts})

    def has_experts(self, layer: int) -> bool:
        """Whether the layer of this number, counted from 0, has several MLPs.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> config.encoder.has_experts(1)
        False
        """
        return self.experts is not None and self.experts.is_in(layer)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the SigLIP vision tower and of what it hands to the encoder.

    Args:
        image_size: int. Height and width of an image, in pixels.
        patch_size: int. Height and width of a patch, in pixels.
        hidden_dim: int. Width of the tower.
        mlp_dim: int. Width of the tower's MLP.
        num_layers: int. Layers of the tower.
        num_heads: int. Attention heads of the tower.
        tokens_per_image: int. Encoder tokens that one image becomes; a square number.
        norm_epsilon: float. Of the tower's norms and of the projector's.
        dropout: float. Dropout of the tower's attention probabilities, in training.

    Example:

    >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
    >>> config.vision.image_size, config.vision.patches_per_side
    (32, 4)
    >>> config.vision.tokens_per_image, config.vision.tokens_per_side
    (4, 2)
    """

    image_size: int = 896
    patch_size: int = 14
    hidden_dim: int = 1152
    mlp_dim: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    tokens_per_image: int = 256
    norm_epsilon: float = 1e-6
    dropout: float = 0.0

    def __repr__(self) -> str:
        return _short(self)

    def __post_init__(self) -> None:
        _take_numbers(self)
        _check_positive(self, "image_size", "patch_size", "hidden_dim", "mlp_dim", "num_heads")
        _check_positive(self, "tokens_per_image", "norm_epsilon")
        if self.num_layers < 0:  # 0 is what a file says where there is no tower
            raise ValueError(
                f"`num_layers` must be at least 0. Received: num_layers={shown(self.num_layers)}"
            )
        _check_dropout(self)
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                "The vision tower's `hidden_dim` must be a multiple of its `num_heads`. Received: "
                f"hidden_dim={shown(self.hidden_dim)}, num_heads={shown(self.num_heads)}"
            )
        if self.tokens_per_side**2 != self.tokens_per_image:
            raise ValueError(
                "`tokens_per_image` must be a square number, the cells of a grid over the image. "
                f"Received: tokens_per_image={shown(self.tokens_per_image)}"
            )
        if self.patches_per_side % self.tokens_per_side:
            raise ValueError(
                "The patches along one side of an image (image_size // patch_size) must be a "
                "multiple of the tokens along it (the square root of tokens_per_image). Received: "
                f"image_size={shown(self.image_size)}, patch_size={shown(self.patch_size)}, "
                f"tokens_per_image={shown(self.tokens_per_image)}"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration of a dict of the constructor's arguments.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> fields = config.to_dict()["vision"]
        >>> keras_t5gemma2.VisionConfig.from_dict(fields) == config.vision
        True
        """
        return cls(**fields)

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_side(self) -> int:
        """Encoder tokens along one side of the grid over an image."""
        return int(self.tokens_per_image**0.5)


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a whole model, of T5Gemma 2 or of T5Gemma 1.

    Args:
        vocabulary_size: int. Rows of an embedding table.
        encoder: `StackConfig`.
        decoder: `StackConfig`; `None` for an encoder alone. Without a `cross_attention_dim` its
            layers project the encoder's output with their own key and value weights, and it is of
            the same `hidden_dim`; with one, which is the encoder's `hidden_dim`, of any.
        vision: `VisionConfig`, or `None` for a text-only model.
        end_of_image_token_id: int. The id whose embedding is a vector of its own; `None` where
            none is.
        image_token_id: int. The id whose positions the features of images fill, or `None`.
        final_logit_soft_cap: float or `None`. Logits become `cap * tanh(logits / cap)`.
        decoder_table: bool. Whether the decoder has an embedding table of its own, of which the
            logits are too, as in T5Gemma 1; if false, both stacks and the logits share one.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
    >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local, local))
    >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
    >>> BackboneConfig.from_dict(config.to_dict()) == config
    True
    >>> config.hidden_dim
    32
    """

    vocabulary_size: int
    encoder: StackConfig
    decoder: StackConfig | None
    vision: VisionConfig | None = None
    end_of_image_token_id: int | None = 256_000
    image_token_id: int | None = 256_001
    final_logit_soft_cap: float | None = None
    decoder_table: bool = _later(False)

    def __repr__(self) -> str:
        return _short(self)

    def __post_init__(self) -> None:
        _take_numbers(self)
        _check_positive(self, "vocabulary_size")
        if self.final_logit_soft_cap is not None:
            _check_positive(self, "final_logit_soft_cap")
        for name, stack in {"encoder": self.encoder, **self.stacks}.items():
            _check_kind(name, stack, StackConfig)
        if self.vision is not None:
            _check_kind("vision", self.vision, VisionConfig)
        _check_flag(self, "decoder_table")
        _check_stacks(self)

    @property
    def hidden_dim(self) -> int:
        """Width of the encoder's hidden states; in T5Gemma 2 of the decoder's too."""
        return self.encoder.hidden_dim

    @property
    def generation(self) -> int:
        """1 for T5Gemma 1, whose layers have no norm of queries and keys; 2 for T5Gemma 2.

        Example:

        >>> keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config.generation
        2
        """
        return 2 if all(layer.qk_norm for layer in self.encoder.layers) else 1

    @property
    def stacks(self) -> dict[str, StackConfig]:
        """The stacks that there are, by name: "encoder" and, as a rule, "decoder".

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> list(config.stacks)
        ['encoder', 'decoder']
        """
        stacks = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in stacks.items() if stack is not None}

    def encoder_alone(self) -> Self:
        """The configuration without the decoder, and without what is said of its logits.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> list(config.encoder_alone().stacks)
        ['encoder']
        """
        return dataclasses.replace(
            self, decoder=None, final_logit_soft_cap=None, decoder_table=False
        )

    def with_rope_factor(self, rope_factor: float) -> Self:
        """The configuration with the positions of full attention divided by another number.

        Texts that are longer than those of training then have positions that it has seen, only
        closer to each other: position interpolation (Chen et al., arXiv 2306.15595). Layers with
        a window stay as they are: no distance in them grows with the text.

        Args:
            rope_factor: float, above 0; instead of what the layers have.

        Raises:
            ValueError: it is not above 0, or all layers have a window.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> [layer.rope_factor for layer in config.with_rope_factor(4.0).encoder.layers]
        [1.0, 4.0, 1.0]
        """
        if all(layer.window for stack in self.stacks.values() for layer in stack.layers):
            raise ValueError(
                "`rope_factor` needs a layer of full attention. Received: "
                f"rope_factor={shown(rope_factor)}, for a model whose layers all have a window"
            )

        def stretched(stack: StackConfig) -> StackConfig:
            layers = (
                layer if layer.window else dataclasses.replace(layer, rope_factor=rope_factor)
                for layer in stack.layers
            )
            return dataclasses.replace(stack, layers=tuple(layers))

        decoder = None if self.decoder is None else stretched(self.decoder)
        return dataclasses.replace(self, encoder=stretched(self.encoder), decoder=decoder)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested dicts, lists and numbers: plain JSON.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> sorted(config.to_dict()["encoder"])
        ['dropout', 'hidden_dim', 'layers', 'mlp_dim', 'norm_epsilon']
        """
        return to_json(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` gave.

        Example:

        >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
        >>> keras_t5gemma2.BackboneConfig.from_dict(config.to_dict()) == config
        True
        """
        vision, decoder = fields.get("vision"), fields["decoder"]
        return cls(
            **{
                **fields,
                "encoder": StackConfig.from_dict(fields["encoder"]),
                "decoder": None if decoder is None else StackConfig.from_dict(decoder),
                "vision": None if vision is None else VisionConfig.from_dict(vision),
            }
        )


def interleave(
    local: AttentionConfig, full: AttentionConfig, num_layers: int, period: int = 6
) -> tuple[AttentionConfig, ...]:
    """The published pattern of layers: every `period`-th is `full`, the others are `local`.

    Example:

    >>> config = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny").config
    >>> local, full = sorted(set(config.encoder.layers), key=lambda layer: layer.window is None)
    >>> [layer.window for layer in keras_t5gemma2.interleave(local, full, num_layers=7)]
    [16, 16, 16, 16, 16, None, 16]
    """
    return tuple(full if (i + 1) % period == 0 else local for i in range(num_layers))


def _short(config, **shown):
    """A config by its fields that are not at their default, or as `shown` has them."""
    fields = [
        f"{field.name}={shown.get(field.name, repr(getattr(config, field.name)))}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    ]
    return f"{type(config).__name__}({', '.join(fields)})"


def to_json(value: Any) -> Any:
    """A config, or any frozen dataclass of numbers, as nested dicts, lists and numbers."""
    if dataclasses.is_dataclass(value):
        values = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            field.name: to_json(held)
            for field, held in values.items()
            if not (field.metadata.get("is_later") and held == field.default)
        }
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def _take_numbers(config):
    """Makes the numbers of a config Python's own, which JSON and Keras take; numpy's are others."""
    kinds = {int: (integer, "an integer"), float: (number, "a number")}
    for field in dataclasses.fields(config):
        optional = isinstance(field.type, types.UnionType)
        kind = field.type.__args__[0] if optional else field.type
        value = getattr(config, field.name)
        if kind not in kinds or (optional and value is None):
            continue
        take, what = kinds[kind]
        taken = take(value)
        if taken is None:
            none = ", or `None`" if optional else ""
            raise TypeError(
                f"`{field.name}` must be {what}{none}. Received: {field.name}={shown(value)}"
            )
        if rule := _broken_bound(kind, taken):
            raise ValueError(
                f"`{field.name}` must be {rule}. Received: {field.name}={shown(value)}"
            )
        object.__setattr__(config, field.name, taken)


def _broken_bound(kind, value):
    """The bound that a number breaks, in words; `None` where the arrays of a model can hold it."""
    if kind is int:
        return None if abs(value) <= LARGEST_INTEGER else f"at most {LARGEST_INTEGER}"
    if not math.isfinite(value):
        return "finite"
    return None if is_in_float32(value) else f"0 or of a size from {SMALLEST} to {LARGEST}"


def _check_stacks(config):
    """Raises where the stacks of a `BackboneConfig` do not fit each other."""
    encoder, decoder = config.encoder, config.decoder
    if encoder.cross_attention_dim is not None:
        raise ValueError(
            "`cross_attention_dim` must be `None` in an encoder, which attends to itself. "
            f"Received: encoder.cross_attention_dim={shown(encoder.cross_attention_dim)}"
        )
    if decoder is None:
        if config.decoder_table:
            raise ValueError(
                "`decoder_table` must be false in an encoder alone. Received: decoder_table=True, "
                "decoder=None"
            )
        return
    widths = (
        f"encoder.hidden_dim={shown(encoder.hidden_dim)}, "
        f"decoder.hidden_dim={shown(decoder.hidden_dim)}"
    )
    if decoder.cross_attention_dim not in (None, encoder.hidden_dim):
        raise ValueError(
            "`cross_attention_dim` of a decoder must be the width of the encoder's output. "
            f"Received: decoder.cross_attention_dim={shown(decoder.cross_attention_dim)}, {widths}"
        )
    is_merged = decoder.cross_attention_dim is None
    if encoder.hidden_dim != decoder.hidden_dim and (is_merged or not config.decoder_table):
        raise ValueError(
            "Encoder and decoder must have the same `hidden_dim`, unless the decoder has a "
            f"`cross_attention_dim` and a table of its own (`decoder_table`). Received: {widths}"
        )


def _check_flag(config, name):
    value = getattr(config, name)
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be true or false. Received: {name}={shown(value)}")


def _check_positive(config, *names):
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={shown(value)}")


def _check_kind(name, value, kind):
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be of {kind.__name__}. Received: {name}={shown(value)}")


def _check_dropout(config):
    if not 0 <= config.dropout < 1:
        raise ValueError(
            f"`dropout` must be at least 0 and below 1. Received: dropout={shown(config.dropout)}"
        )
