"""The config of keras-hub's own T5Gemma 1 as a `BackboneConfig`, and back."""

import dataclasses

from keras_t5gemma2.checkpoints.keras_hub.config import (
    FIRST_BACKBONE_NAME,
    STACK_SIZES,
    check_nothing_is_lost,
    stack_fields,
    stack_of,
)
from keras_t5gemma2.checkpoints.keras_hub.objects import dtype_object, keras_object
from keras_t5gemma2.config import AttentionConfig, BackboneConfig
from keras_t5gemma2.files.section import Section

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
    "dtype": None,
}


def config_from_keras_hub(values):
    """The sizes of the model that a `config.json` of keras-hub's own T5Gemma 1 describes.

    Args:
        values: dict, the parsed `config.json`.

    Raises:
        ValueError: it asks for what the model does not have; the message names key and value.
    """
    model = Section("", values, {"registered_name": None, "config": None})
    model = model.section("config", _DEFAULTS)
    _check_fixed(model)
    encoder = stack_of(model, "encoder", _attention)
    decoder = stack_of(model, "decoder", _attention)
    return model.make(
        BackboneConfig,
        vocabulary_size=model.size("vocabulary_size"),
        encoder=encoder,
        decoder=dataclasses.replace(decoder, cross_attention_dim=encoder.hidden_dim),
        end_of_image_token_id=None,
        image_token_id=None,
        final_logit_soft_cap=model.positive("final_logit_softcapping", or_none=True),
        decoder_table=True,
    )


def config_to_keras_hub(config, dtype="float32"):
    """The `config.json` of keras-hub's own T5Gemma 1 for a `BackboneConfig`, as a dict.

    Args:
        config: `BackboneConfig`.
        dtype: string, of the model that keras-hub makes by default.

    Raises:
        ValueError: keras-hub's model cannot be given such sizes; the message names them.
    """
    layers = (*config.decoder.layers, *config.encoder.layers)
    window = next((a.window for a in config.decoder.layers if a.window is not None), None)
    if window is None:
        window = next((a.window for a in config.encoder.layers if a.window is not None), None)
        window = window and (window + 1) // 2
    fields = {
        "name": "t5_gemma_backbone",
        "trainable": True,
        "dtype": dtype_object(dtype),
        "vocabulary_size": config.vocabulary_size,
        **stack_fields("encoder", config.encoder),
        **stack_fields("decoder", config.decoder),
        "dropout_rate": config.encoder.dropout,
        "rms_norm_eps": config.encoder.norm_epsilon,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": layers[0].query_pre_attn_scalar,
        "attention_bias": False,
        "hidden_activation": "gelu_approximate",
        "initializer_range": 0.02,
        "attention_dropout": layers[0].dropout,
        "sliding_window": window,
        "cross_attention_hidden_size": config.encoder.hidden_dim,
        "attn_logit_softcapping": layers[0].soft_cap,
        "final_logit_softcapping": config.final_logit_soft_cap,
        "rope_max_wavelength": layers[0].rope_theta,
    }
    place = "keras_hub.src.models.t5gemma.t5gemma_backbone"
    values = keras_object(place, FIRST_BACKBONE_NAME, fields)
    check_nothing_is_lost(config, config_from_keras_hub(values))
    return values


def _check_fixed(model):
    model.must_be("tie_word_embeddings", True)
    model.must_be("attention_bias", False)
    model.must_be("hidden_activation", "gelu_approximate")
    if model["cross_attention_hidden_size"] is not None:
        model.must_be("cross_attention_hidden_size", model["encoder_hidden_dim"])
    dtype = model["dtype"]
    if isinstance(dtype, dict) and dtype.get("class_name") not in ("DTypePolicy", None):
        raise model.error("dtype", "be a float type: quantized weights cannot be read")


def _attention(model, stack, kind):
    window = None if kind == "full_attention" else model.size("sliding_window")
    if stack == "encoder" and window is not None:
        window = 2 * window - 1  # as many tokens on both sides
    return model.make(
        AttentionConfig,
        num_heads=model.size(f"{stack}_num_attention_heads"),
        num_kv_heads=model.size(f"{stack}_num_key_value_heads"),
        head_dim=model.size(f"{stack}_head_dim"),
        window=window,
        rope_theta=float(model.positive("rope_max_wavelength")),
        query_pre_attn_scalar=model.positive("query_pre_attn_scalar"),
        dropout=model.rate("attention_dropout"),
        norm_epsilon=model.positive("rms_norm_eps"),
        qk_norm=False,
        soft_cap=model.positive("attn_logit_softcapping", or_none=True),
    )
