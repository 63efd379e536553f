"""The reference's `config.json` as a `BackboneConfig`.

A `config.json` may leave out what its class sets by default, so the defaults stand here as well.
"""

from keras_t5gemma2.checkpoints.heads import ReferenceHead
from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig, VisionConfig
from keras_t5gemma2.files.limits import MOST_LAYERS, is_number
from keras_t5gemma2.files.section import Section
from keras_t5gemma2.messages import shown

_SLIDING, FULL = "sliding_attention", "full_attention"
_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "layer_types": None,
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "final_logit_softcapping": None,
    "max_position_embeddings": 131_072,
}
_VISION_DEFAULTS = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
_ENCODER_DEFAULTS = {
    "text_config": None,
    "vision_config": None,
    "mm_tokens_per_image": 256,
    "eoi_token_index": 256_000,
}
_DEFAULTS = {
    "model_type": None,
    "encoder": None,
    "decoder": None,
    "dropout_rate": 0.0,
    "attention_dropout": 0.0,
    "image_token_index": 256_001,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
_HEAD_DEFAULTS = {
    "architectures": None,
    "id2label": None,
    "num_labels": 2,
    "classifier_dropout_rate": 0.0,
}
# The reference's classes with a head.
HEADS = ("T5Gemma2ForSequenceClassification", "T5Gemma2ForTokenClassification")
_OTHER_MODELS = {
    "t5gemma": "A T5Gemma 1 is loaded by `T5GemmaBackbone` and `T5GemmaSeq2SeqLM`.",
    "gemma3": "A Gemma 3 model becomes one by `T5Gemma2Seq2SeqLM.from_gemma3`.",
    "gemma3_text": "A Gemma 3 model becomes one by `T5Gemma2Seq2SeqLM.from_gemma3`.",
}


def config_from_transformers(values, text_only=False):
    """The sizes of the model that a `config.json` of the reference describes.

    Args:
        values: dict, the parsed `config.json`. The forms of earlier releases are understood
            too. Dropout rates of the whole model win over those of its parts, as in the
            reference.
        text_only: bool. Leave out the vision tower, and do not look at its part.

    Returns:
        A `BackboneConfig`.

    Raises:
        ValueError: it is no T5Gemma 2, or asks for what the model does not have; the message
            names key and value.

    Example:

    >>> config = config_from_transformers({"model_type": "t5gemma2"}, text_only=True)
    >>> config.vocabulary_size, len(config.encoder.layers)
    (262208, 26)
    """
    model = Section("", values, _DEFAULTS)
    _check_model_type(model)
    if _is_encoder(model):
        return _encoder_alone(values, text_only)
    model.must_be("is_encoder_decoder", True)
    model.must_be("tie_word_embeddings", True)
    encoder = model.section("encoder", _ENCODER_DEFAULTS)
    text = encoder.section("text_config", _TEXT_DEFAULTS)
    decoder = model.section("decoder", _TEXT_DEFAULTS)
    decoder.must_be("vocab_size", text.size("vocab_size"))
    decoder.must_be("hidden_size", text.size("hidden_size"))
    return BackboneConfig(
        vocabulary_size=text.size("vocab_size"),
        encoder=stack_of(text, model),
        decoder=stack_of(decoder, model),
        vision=None if text_only else _vision(encoder, model),
        end_of_image_token_id=encoder.token_id("eoi_token_index"),
        image_token_id=model.token_id("image_token_index"),
        final_logit_soft_cap=decoder.positive("final_logit_softcapping", or_none=True),
    )


def _encoder_alone(values, text_only):
    """The sizes of a directory of the reference's encoder, whose dropout its parts say."""
    encoder = Section("", values, {**_ENCODER_DEFAULTS, "image_token_index": 262_144})
    rates = {"dropout_rate": 0.0, "attention_dropout": 0.0}
    text = encoder.section("text_config", {**_TEXT_DEFAULTS, **rates})
    tower = encoder.section("vision_config", rates)
    return BackboneConfig(
        vocabulary_size=text.size("vocab_size"),
        encoder=stack_of(text, text),
        decoder=None,
        vision=None if text_only else _vision(encoder, tower),
        end_of_image_token_id=encoder.token_id("eoi_token_index"),
        image_token_id=encoder.token_id("image_token_index"),
    )


def context_lengths(values):
    """The tokens that encoder and decoder are made for, a pair of ints.

    Args:
        values: dict, the parsed `config.json`.

    Raises:
        ValueError: a length is no size.
    """
    model = Section("", values, _DEFAULTS)
    encoder = model.section("encoder", _ENCODER_DEFAULTS)
    if _is_encoder(model):
        encoder = Section("", values, _ENCODER_DEFAULTS)
    text = encoder.section("text_config", _TEXT_DEFAULTS)
    decoder = model.section("decoder", _TEXT_DEFAULTS)
    return tuple(stack.size("max_position_embeddings") for stack in (text, decoder))


def _is_encoder(model):
    return model["model_type"] == "t5gemma2_encoder"


def reference_head(values, classes=HEADS):
    """The `ReferenceHead` of a model that classifies, or `None`.

    Args:
        values: dict, the parsed `config.json`.
        classes: names of the reference's classes with a head.

    Raises:
        ValueError: its sizes are none.
    """
    model = Section("", values, {**_DEFAULTS, **_HEAD_DEFAULTS})
    named = model["architectures"]
    named = named if isinstance(named, list) else []
    architecture = next((name for name in named if name in classes), None)
    if architecture is None:
        return None
    labels = model.optional_object("id2label")
    num_classes = len(labels) or model.size("num_labels")
    dropout = model["classifier_dropout_rate"]
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(
            "`classifier_dropout_rate` of config.json must be a number from 0 to below 1. "
            f"Received: {shown(dropout)}"
        )
    start = model.section("decoder", {"bos_token_id": 2}).token_id("bos_token_id")
    return ReferenceHead(architecture, num_classes, float(dropout), start)


def _check_model_type(model):
    kind = model["model_type"]
    if kind != "t5gemma2" and not _is_encoder(model):
        hint = _OTHER_MODELS.get(str(kind), "")
        raise ValueError(
            "The `model_type` of config.json must be 't5gemma2' or 't5gemma2_encoder'. "
            f"Received: model_type={shown(kind)}. {hint}".strip()
        )


def stack_of(section, model, attention=None):
    """The `StackConfig` of one text part, its layers made by `attention` or `attention_of`."""
    section.must_be("hidden_activation", "gelu_pytorch_tanh")
    section.must_be("attention_bias", False)
    kinds = _layer_kinds(section)
    by_kind = {kind: (attention or attention_of)(section, model, kind) for kind in set(kinds)}
    return StackConfig(
        hidden_dim=section.size("hidden_size"),
        mlp_dim=section.size("intermediate_size"),
        layers=tuple(by_kind[kind] for kind in kinds),
        norm_epsilon=section.positive("rms_norm_eps"),
        dropout=model.rate("dropout_rate"),
    )


def _layer_kinds(section):
    count = section.size("num_hidden_layers", MOST_LAYERS)
    kinds = section["layer_types"]
    if kinds is None:
        period = section.size("sliding_window_pattern")
        return [_SLIDING if (i + 1) % period else FULL for i in range(count)]
    is_sound = isinstance(kinds, list) and all(kind in (_SLIDING, FULL) for kind in kinds)
    if not is_sound or len(kinds) != count:
        rule = f"be a list of {count} (num_hidden_layers) times {_SLIDING!r} or {FULL!r}"
        raise section.error("layer_types", rule)
    return kinds


def attention_of(section, model, kind):
    """The `AttentionConfig` of one kind of layer of a text part."""
    theta, factor = rope_of(section, kind)
    return section.make(
        AttentionConfig,
        num_heads=section.size("num_attention_heads"),
        num_kv_heads=section.size("num_key_value_heads"),
        head_dim=section.size("head_dim"),
        window=section.size("sliding_window") if kind == _SLIDING else None,
        rope_theta=theta,
        rope_factor=factor,
        query_pre_attn_scalar=section.positive("query_pre_attn_scalar"),
        dropout=model.rate("attention_dropout"),
        norm_epsilon=section.positive("rms_norm_eps"),
    )


def rope_of(section, kind):
    """Base wavelength and factor of the rotary embedding of one kind of layer."""
    values = _rope_values(section, kind)
    older_key = "rope_theta" if kind == FULL else "rope_local_base_freq"
    defaults = {
        "rope_type": values.get("type", "default"),
        "rope_theta": section.positive(older_key),
        "factor": None,
        "partial_rotary_factor": 1.0,
    }
    rope = section.subsection(f"rope_parameters.{kind}", values, defaults)
    rope.must_be("partial_rotary_factor", 1.0)
    if rope["rope_type"] not in ("default", "linear"):
        raise rope.error("rope_type", "be 'default' or 'linear'")
    # As in the reference, a factor beside the type 'default' means nothing.
    factor = rope.positive("factor") if rope["rope_type"] == "linear" else 1.0
    return float(rope.positive("rope_theta")), float(factor)


def _rope_values(section, kind):
    """What a config says about one kind of layer, in the nested, the flat and the older form."""
    nested = section.optional_object("rope_parameters")
    if not set(nested) & {_SLIDING, FULL}:
        # Scaling has always been that of the full layers, as long as there was one for all.
        nested = {FULL: nested}
    rope = Section(f"{section.name}.rope_parameters", nested, {_SLIDING: None, FULL: None})
    scaling = section.optional_object("rope_scaling") if kind == FULL else {}
    return {**rope.optional_object(kind), **scaling}


def _vision(encoder, model):
    section = encoder.section("vision_config", _VISION_DEFAULTS)
    if section["num_hidden_layers"] == 0:
        # How a model without a tower is written, since the reference's class always has one.
        return None
    section.must_be("model_type", "siglip_vision_model")
    section.must_be("hidden_act", "gelu_pytorch_tanh")
    section.must_be("vision_use_head", False)
    section.must_be("num_channels", 3)
    return section.make(
        VisionConfig,
        image_size=section.size("image_size"),
        patch_size=section.size("patch_size"),
        hidden_dim=section.size("hidden_size"),
        mlp_dim=section.size("intermediate_size"),
        num_layers=section.size("num_hidden_layers", MOST_LAYERS),
        num_heads=section.size("num_attention_heads"),
        tokens_per_image=encoder.size("mm_tokens_per_image"),
        norm_epsilon=section.positive("layer_norm_eps"),
        dropout=model.rate("attention_dropout"),
    )
