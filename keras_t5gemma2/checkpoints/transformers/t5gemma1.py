"""The `config.json` of T5Gemma 1 as a `BackboneConfig`, and back.

What T5Gemma 2 has in common with it is in `config`.
"""

import dataclasses

from keras_t5gemma2.checkpoints.transformers.config import (
    FULL,
    attention_of,
    rope_of,
    stack_of,
)
from keras_t5gemma2.checkpoints.transformers.config import (
    reference_head as head_of,
)
from keras_t5gemma2.checkpoints.transformers.config_writer import (
    PUBLISHED_IDS,
    check_is_accepted,
    check_reads_back,
    stack_fields,
    token_ids,
)
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.files.section import Section

MODEL_TYPE = "t5gemma"
# The reference's classes with a head.
HEADS = ("T5GemmaForSequenceClassification", "T5GemmaForTokenClassification")
# Of both stacks, as published.
CONTEXT_LENGTHS = (8192, 8192)

_STACK_DEFAULTS = {
    "vocab_size": 256_000,
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
    "sliding_window_pattern": 2,
    "layer_types": None,
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": 10_000.0,
    "rope_local_base_freq": 10_000.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
}
_DEFAULTS = {
    "encoder": None,
    "decoder": None,
    "dropout_rate": 0.0,
    "attention_dropout": 0.0,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}


def config_from_transformers(values, text_only=False):
    """The sizes of the model that a `config.json` of T5Gemma 1 describes.

    Args:
        values: dict, the parsed `config.json`.
        text_only: bool, without an effect: there is no vision tower.

    Returns:
        A `BackboneConfig`, of an encoder alone where `is_encoder_decoder` is false.

    Raises:
        ValueError: it asks for what the model does not have; the message names key and value.

    Example:

    >>> config = config_from_transformers({"model_type": "t5gemma"})
    >>> config.encoder.layers[0].window, config.decoder.layers[0].window
    (8191, 4096)
    """
    model = Section("", values, _DEFAULTS)
    model.must_be("tie_word_embeddings", True)
    encoder, decoder = (model.section(name, _STACK_DEFAULTS) for name in ("encoder", "decoder"))
    sizes = {"vocabulary_size": encoder.size("vocab_size"), "encoder": _encoder(encoder, model)}
    no_images = {"end_of_image_token_id": None, "image_token_id": None}
    if model["is_encoder_decoder"] is False:
        return BackboneConfig(**sizes, **no_images, decoder=None)
    model.must_be("is_encoder_decoder", True)
    decoder.must_be("vocab_size", encoder.size("vocab_size"))
    stack = stack_of(decoder, model, _attention)
    return BackboneConfig(
        **sizes,
        **no_images,
        decoder=dataclasses.replace(stack, cross_attention_dim=encoder.size("hidden_size")),
        final_logit_soft_cap=decoder.positive("final_logit_softcapping", or_none=True),
        decoder_table=True,
    )


def context_lengths(values):
    """The tokens that encoder and decoder are made for, a pair of ints."""
    model = Section("", values, _DEFAULTS)
    stacks = (model.section(name, _STACK_DEFAULTS) for name in ("encoder", "decoder"))
    return tuple(stack.size("max_position_embeddings") for stack in stacks)


def reference_head(values):
    """As that of T5Gemma 2."""
    return head_of(values, HEADS)


def _encoder(section, model):
    """A window of W tokens is W - 1 tokens to either side and the query itself.

    So the model was trained, in its authors' code and in the reference up to 4.53. Later releases
    of the reference see a token more on either side.
    """
    stack = stack_of(section, model, _attention)
    layers = (
        dataclasses.replace(layer, window=layer.window and 2 * layer.window - 1)
        for layer in stack.layers
    )
    return dataclasses.replace(stack, layers=tuple(layers))


def _attention(section, model, kind):
    theta, factor = rope_of(section, FULL)  # that of sliding layers too
    return dataclasses.replace(
        attention_of(section, model, kind),
        rope_theta=theta,
        rope_factor=factor,
        qk_norm=False,
        soft_cap=section.positive("attn_logit_softcapping", or_none=True),
    )


def config_to_transformers(
    config, dtype="float32", ids=PUBLISHED_IDS, context_lengths=CONTEXT_LENGTHS
):
    """The `config.json` of a T5Gemma 1, as a dict.

    Args:
        config: `BackboneConfig`.
        dtype: string, that of the weights beside it.
        ids: dict of token ids by "pad", "eos" and "bos".
        context_lengths: pair of ints, the tokens of encoder and decoder.

    Raises:
        ValueError: the reference cannot say, or would not accept, what `config` says.
    """
    decoder = config.decoder or _as_decoder(config)
    stacks = {"encoder": _narrowed(config.encoder), "decoder": decoder}
    parts = {
        name: _fields(stack, config, ids, length)
        for (name, stack), length in zip(stacks.items(), context_lengths, strict=True)
    }
    is_alone = config.decoder is None
    values = {
        "architectures": ["T5GemmaEncoderModel" if is_alone else "T5GemmaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "dtype": dtype,
        **parts,
        "vocab_size": config.vocabulary_size,
        **token_ids(ids),
        "dropout_rate": config.encoder.dropout,
        "attention_dropout": config.encoder.layers[0].dropout if config.encoder.layers else 0.0,
        "classifier_dropout_rate": 0.0,
        "initializer_range": 0.02,
        "is_encoder_decoder": not is_alone,
        "tie_word_embeddings": True,
    }
    check_reads_back(config, config_from_transformers(values))
    check_is_accepted(config)
    return values


def _fields(stack, config, ids, length):
    layers = stack.layers
    theta, factor = (layers[0].rope_theta, layers[0].rope_factor) if layers else (10_000.0, 1.0)
    kind = {"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {
        **stack_fields(stack, length),
        "model_type": "t5_gemma_module",
        "vocab_size": config.vocabulary_size,
        **token_ids(ids),
        "rope_parameters": {**kind, "rope_theta": float(theta)},
        "attn_logit_softcapping": layers[0].soft_cap if layers else None,
        "final_logit_softcapping": config.final_logit_soft_cap,
        "cross_attention_hidden_size": stack.cross_attention_dim,
    }


def _narrowed(stack):
    """The encoder's `StackConfig` with windows as the reference counts them."""
    layers = (
        dataclasses.replace(layer, window=layer.window and (layer.window + 1) // 2)
        for layer in stack.layers
    )
    return dataclasses.replace(stack, layers=tuple(layers))


def _as_decoder(config):
    """What stands for the decoder of an encoder alone, which the reference's config always has."""
    stack = _narrowed(config.encoder)
    return dataclasses.replace(stack, cross_attention_dim=config.encoder.hidden_dim)
