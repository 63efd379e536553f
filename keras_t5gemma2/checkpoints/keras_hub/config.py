"""The config of keras-hub's own T5Gemma 2 as a `BackboneConfig`, and back."""

from keras_t5gemma2.checkpoints.keras_hub.objects import dtype_object, keras_object
from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig, VisionConfig
from keras_t5gemma2.files.limits import MOST_LAYERS
from keras_t5gemma2.files.section import Section

BACKBONE_NAME = "keras_hub>T5Gemma2Backbone"
FIRST_BACKBONE_NAME = "keras_hub>T5GemmaBackbone"
# What the published vocabulary has; keras-hub leaves it to the tokenizer.
IMAGE_TOKEN_ID = 256_001

_SLIDING, _FULL = "sliding_attention", "full_attention"
# Not in the config: keras-hub's layers have it in their code.
_FULL_ROPE_THETA = 1_000_000.0
_VISION_NAME = "keras_hub>Gemma3VisionEncoder"
STACK_SIZES = (
    *("hidden_dim", "intermediate_dim", "num_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "layer_types"),
)
_DEFAULTS = {
    **{f"{stack}_{key}": None for stack in ("encoder", "decoder") for key in STACK_SIZES},
    "vocabulary_size": None,
    "dropout_rate": 0.0,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 1.0,
    "attention_bias": False,
    "hidden_activation": "gelu_approximate",
    "tie_word_embeddings": True,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "cross_attention_hidden_size": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "rope_max_wavelength": 10_000.0,
    "global_rope_scaling_factor": 1.0,
    "encoder_rope_max_wavelength": None,
    "encoder_global_rope_scaling_factor": None,
    "use_query_key_norm": True,
    "vision_encoder": None,
    "eoi_token_index": 256_000,
    "dtype": None,
}
_VISION_DEFAULTS = {
    "registered_name": None,
    "config": None,
}
_VISION_SIZES = {
    **dict.fromkeys(("image_size", "patch_size", "num_heads", "hidden_dim", "num_layers")),
    **dict.fromkeys(("intermediate_dim", "output_dim")),
    "pool_size": 14,
    "layer_norm_epsilon": 1e-6,
}


def is_keras_hub(values):
    """Whether a parsed `config.json` is that of a preset of keras-hub's own T5Gemma 2 or 1."""
    return values.get("registered_name") in (BACKBONE_NAME, FIRST_BACKBONE_NAME)


def config_from_keras_hub(values, image_token_id=IMAGE_TOKEN_ID, text_only=False):
    """The sizes of the model that a `config.json` of keras-hub's own T5Gemma 2 describes.

    Args:
        values: dict, the parsed `config.json`.
        image_token_id: int, which keras-hub's file does not say.
        text_only: bool. Leave out the vision tower, and do not look at its part.

    Returns:
        A `BackboneConfig`.

    Raises:
        ValueError: it is no T5Gemma 2, or asks for what the model does not have; the message
            names key and value.
    """
    file = Section("", values, {"registered_name": None, "config": None})
    file.must_be("registered_name", BACKBONE_NAME)
    model = file.section("config", _DEFAULTS)
    _check_fixed(model)
    return model.make(
        BackboneConfig,
        vocabulary_size=model.size("vocabulary_size"),
        encoder=stack_of(model, "encoder"),
        decoder=stack_of(model, "decoder"),
        vision=None if text_only or model["vision_encoder"] is None else _vision(model),
        end_of_image_token_id=model.token_id("eoi_token_index"),
        image_token_id=image_token_id,
        final_logit_soft_cap=model.positive("final_logit_softcapping", or_none=True),
    )


def config_to_keras_hub(config, dtype="float32"):
    """The `config.json` of keras-hub's own T5Gemma 2 for a `BackboneConfig`, as a dict.

    Args:
        config: `BackboneConfig`.
        dtype: string, of the model that keras-hub makes by default.

    Raises:
        ValueError: keras-hub's model cannot be given such sizes; the message names them.

    Example:

    >>> from keras_t5gemma2.config import AttentionConfig, StackConfig
    >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
    >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
    >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
    >>> fields = config_to_keras_hub(config)
    >>> fields["config"]["decoder_layer_types"], config_from_keras_hub(fields) == config
    (['sliding_attention'], True)
    """
    first = config.encoder.layers[0]
    fields = {
        "name": "t5_gemma2_backbone",
        "trainable": True,
        "dtype": dtype_object(dtype),
        "vocabulary_size": config.vocabulary_size,
        **stack_fields("encoder", config.encoder),
        **stack_fields("decoder", config.decoder),
        "dropout_rate": config.encoder.dropout,
        "rms_norm_eps": config.encoder.norm_epsilon,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": first.query_pre_attn_scalar,
        "attention_bias": False,
        "hidden_activation": "gelu_approximate",
        "initializer_range": 0.02,
        "attention_dropout": first.dropout,
        "sliding_window": _one(config, _SLIDING, "window", None),
        "cross_attention_hidden_size": config.hidden_dim,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": config.final_logit_soft_cap,
        "rope_max_wavelength": _of_stack(config.decoder, _SLIDING, "rope_theta", 10_000.0),
        "global_rope_scaling_factor": _of_stack(config.decoder, _FULL, "rope_factor", 1.0),
        "encoder_rope_max_wavelength": _of_stack(config.encoder, _SLIDING, "rope_theta", None),
        "encoder_global_rope_scaling_factor": _of_stack(config.encoder, _FULL, "rope_factor", None),
        "use_query_key_norm": True,
        "eoi_token_index": config.end_of_image_token_id,
        "vision_encoder": config.vision and _vision_object(config, dtype),
    }
    place = "keras_hub.src.models.t5gemma2.t5gemma2_backbone"
    values = keras_object(place, BACKBONE_NAME, fields)
    check_nothing_is_lost(config, config_from_keras_hub(values, config.image_token_id))
    return values


def _check_fixed(model):
    model.must_be("tie_word_embeddings", True)
    model.must_be("attention_bias", False)
    model.must_be("hidden_activation", "gelu_approximate")
    model.must_be("use_query_key_norm", True)
    model.must_be("attn_logit_softcapping", None)
    model.must_be("decoder_hidden_dim", model.size("encoder_hidden_dim"))
    if model["cross_attention_hidden_size"] is not None:
        model.must_be("cross_attention_hidden_size", model["encoder_hidden_dim"])
    dtype = model["dtype"]
    if isinstance(dtype, dict) and dtype.get("class_name") not in ("DTypePolicy", None):
        raise model.error("dtype", "be a float type: quantized weights cannot be read")


def stack_of(model, stack, attention=None):
    """The `StackConfig` of a stack, its layers made by `attention` or as T5Gemma 2 has them."""
    kinds = model[f"{stack}_layer_types"]
    count = model.size(f"{stack}_num_layers", MOST_LAYERS)
    is_sound = isinstance(kinds, list) and all(kind in (_SLIDING, _FULL) for kind in kinds)
    if not is_sound or len(kinds) != count:
        rule = f"be a list of {count} ({stack}_num_layers) times {_SLIDING!r} or {_FULL!r}"
        raise model.error(f"{stack}_layer_types", rule)
    by_kind = {kind: (attention or _attention)(model, stack, kind) for kind in set(kinds)}
    return StackConfig(
        hidden_dim=model.size(f"{stack}_hidden_dim"),
        mlp_dim=model.size(f"{stack}_intermediate_dim"),
        layers=tuple(by_kind[kind] for kind in kinds),
        norm_epsilon=model.positive("rms_norm_eps"),
        dropout=model.rate("dropout_rate"),
    )


def _attention(model, stack, kind):
    def rope(key):
        own = f"encoder_{key}"
        return model.positive(own if stack == "encoder" and model[own] is not None else key)

    is_full = kind == _FULL
    return model.make(
        AttentionConfig,
        num_heads=model.size(f"{stack}_num_attention_heads"),
        num_kv_heads=model.size(f"{stack}_num_key_value_heads"),
        head_dim=model.size(f"{stack}_head_dim"),
        window=None if is_full else model.size("sliding_window"),
        rope_theta=_FULL_ROPE_THETA if is_full else float(rope("rope_max_wavelength")),
        rope_factor=float(rope("global_rope_scaling_factor")) if is_full else 1.0,
        query_pre_attn_scalar=model.positive("query_pre_attn_scalar"),
        dropout=model.rate("attention_dropout"),
        norm_epsilon=model.positive("rms_norm_eps"),
    )


def _vision(model):
    tower = model.section("vision_encoder", _VISION_DEFAULTS)
    tower.must_be("registered_name", _VISION_NAME)
    tower = tower.section("config", _VISION_SIZES)
    tower.must_be("output_dim", model["encoder_hidden_dim"])
    side = tower.size("image_size") // tower.size("patch_size")
    if side == 0 or side % tower.size("pool_size"):
        raise tower.error("pool_size", f"divide the {side} patches along a side of an image")
    return tower.make(
        VisionConfig,
        image_size=tower.size("image_size"),
        patch_size=tower.size("patch_size"),
        hidden_dim=tower.size("hidden_dim"),
        mlp_dim=tower.size("intermediate_dim"),
        num_layers=tower.size("num_layers", MOST_LAYERS),
        num_heads=tower.size("num_heads"),
        tokens_per_image=(side // tower["pool_size"]) ** 2,
        norm_epsilon=tower.positive("layer_norm_epsilon"),
    )


def stack_fields(name, stack):
    """The fields of a stack's sizes."""
    first = stack.layers[0]
    return {
        f"{name}_hidden_dim": stack.hidden_dim,
        f"{name}_intermediate_dim": stack.mlp_dim,
        f"{name}_num_layers": len(stack.layers),
        f"{name}_num_attention_heads": first.num_heads,
        f"{name}_num_key_value_heads": first.num_kv_heads,
        f"{name}_layer_types": [
            _FULL if layer.window is None else _SLIDING for layer in stack.layers
        ],
        f"{name}_head_dim": first.head_dim,
    }


def _vision_object(config, dtype):
    vision = config.vision
    fields = {
        "name": "gemma3_vision_encoder",
        "trainable": True,
        "dtype": dtype_object("float32" if dtype == "bfloat16" else dtype),
        "num_heads": vision.num_heads,
        "hidden_dim": vision.hidden_dim,
        "num_layers": vision.num_layers,
        "intermediate_dim": vision.mlp_dim,
        "output_dim": config.hidden_dim,
        "pool_size": vision.patches_per_side // vision.tokens_per_side,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "layer_norm_epsilon": vision.norm_epsilon,
    }
    return keras_object("keras_hub.src.models.gemma3.gemma3_vision_encoder", _VISION_NAME, fields)


def _of_stack(stack, kind, field, default):
    """A field of the first layer of a kind."""
    is_full = kind == _FULL
    layers = (layer for layer in stack.layers if (layer.window is None) == is_full)
    return next((getattr(layer, field) for layer in layers), default)


def _one(config, kind, field, default):
    found = _of_stack(config.decoder, kind, field, default)
    return _of_stack(config.encoder, kind, field, default) if found is None else found


_RULES = {
    2: "one window, norm epsilon, dropout and query scale for all layers, one RoPE for each kind "
    "of layer of a stack, of base 1e6 in full layers, and no dropout in the vision tower",
    1: "one window, norm epsilon, dropout, query scale, soft cap and RoPE for all layers of both "
    "stacks, the encoder's window to both sides",
}


def check_nothing_is_lost(config, again):
    """Raises where what was written is read as `again`, and not as `config`."""
    theirs, ours = again.to_dict(), config.to_dict()
    lost = _differences("", ours, theirs)
    if lost:
        shown = "; ".join(lost[:5]) + (f"; and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise ValueError(
            f"The model must have sizes that keras-hub's T5Gemma {config.generation} can be given: "
            f"{_RULES[config.generation]}. Received, and what would become of it: {shown}"
        )


def _differences(name, ours, theirs):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = {**ours, **theirs}
        pairs = ((key, ours.get(key), theirs.get(key)) for key in keys)
        return [d for key, a, b in pairs for d in _differences(f"{name}.{key}", a, b)]
    if isinstance(ours, list) and isinstance(theirs, list):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, (a, b) in pairs for d in _differences(f"{name}[{i}]", a, b)]
    return [] if ours == theirs else [f"{name.lstrip('.')}={ours} and {theirs}"]
