"""A `BackboneConfig` as the reference's `config.json`.

What has no place in it is found by reading what was written: there is no second set of rules.
"""

import dataclasses

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers
from keras_t5gemma2.config import AttentionConfig, VisionConfig
from keras_t5gemma2.files.tensors import list_names
from keras_t5gemma2.messages import shown

# The reference's class always has a vision tower. That of a text-only model has no layers, one
# pixel and weights of zero; `config_from_transformers` reads it as none.
NO_TOWER = VisionConfig(
    image_size=1,
    patch_size=1,
    hidden_dim=1,
    mlp_dim=1,
    num_layers=0,
    num_heads=1,
    tokens_per_image=1,
)
# What stands in the place of a kind of layer that a stack does not have.
_NO_LOCAL = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=2, window=4096)
_NO_FULL = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=2, rope_theta=1_000_000.0)
# Those of the model card for encoder and decoder, where there is no preprocessor that has others.
# The reference never looks at them; `from_preset` takes them as caps.
CONTEXT_LENGTHS = (131_072, 32_768)
# The roles of tokens in a config, as `config_to_transformers` takes them, with published ids.
PUBLISHED_IDS = {"pad": 0, "eos": 1, "bos": 2, "start_of_image": 255_999}


def config_to_transformers(
    config, dtype="float32", ids=PUBLISHED_IDS, context_lengths=CONTEXT_LENGTHS
):
    """The `config.json` of a model, as a dict.

    Args:
        config: `BackboneConfig`.
        dtype: string, that of the weights beside it.
        ids: dict of token ids by "pad", "eos", "bos" and "start_of_image".
        context_lengths: pair of ints, the tokens of encoder and decoder.

    Raises:
        ValueError: the reference cannot say, or would not accept, what `config` says.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
    >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local, local))
    >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
    >>> values = config_to_transformers(config)
    >>> values["decoder"]["hidden_size"], values["decoder"]["sliding_window"]
    (32, 6)
    >>> config_from_transformers(values) == config
    True
    """
    values = _model(config, dtype, ids, context_lengths)
    check_reads_back(config, config_from_transformers(values))
    check_is_accepted(config)
    return values


def with_tower(config):
    """The `BackboneConfig` whose vision tower is the one that is written."""
    return config if config.vision else dataclasses.replace(config, vision=NO_TOWER)


def generation_config(ids=PUBLISHED_IDS):
    """The `generation_config.json` of published models, as a dict: they sample.

    Args:
        ids: as for `config_to_transformers`.
    """
    return {**token_ids(ids), "do_sample": True, "top_k": 64, "top_p": 0.95}


def _model(config, dtype, ids, context_lengths):
    encoder = _encoder(config, ids, context_lengths[0])
    image_ids = {key: encoder[key] for key in ("eoi_token_index", "image_token_index")}
    text = {"vocab_size": config.vocabulary_size, **token_ids(ids)}
    if config.decoder is None:
        return {
            "architectures": ["T5Gemma2Encoder"],
            "dtype": dtype,
            **encoder,
            **token_ids(ids),
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
        }
    return {
        "architectures": ["T5Gemma2ForConditionalGeneration"],
        "model_type": "t5gemma2",
        "dtype": dtype,
        "encoder": encoder,
        "decoder": {
            "model_type": "t5gemma2_decoder",
            **text,
            **stack_fields(config.decoder, context_lengths[1]),
            "final_logit_softcapping": config.final_logit_soft_cap,
        },
        **image_ids,
        **text,
        "dropout_rate": config.encoder.dropout,
        "attention_dropout": config.encoder.layers[0].dropout if config.encoder.layers else 0.0,
        "classifier_dropout_rate": 0.0,
        "initializer_range": 0.02,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    }


def _encoder(config, ids, context_length):
    vision = with_tower(config).vision
    text = {"vocab_size": config.vocabulary_size, **token_ids(ids)}
    stack = stack_fields(config.encoder, context_length)
    return {
        "model_type": "t5gemma2_encoder",
        "text_config": {"model_type": "t5gemma2_text", **text, **stack},
        "vision_config": _vision(vision),
        "mm_tokens_per_image": vision.tokens_per_image,
        "boi_token_index": ids["start_of_image"],
        "eoi_token_index": config.end_of_image_token_id,
        "image_token_index": config.image_token_id,
    }


def token_ids(ids):
    """The fields of tokens that every config has."""
    return {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad")}


def stack_fields(stack, context_length):
    """The fields of a `StackConfig` that both generations have."""
    local = next((layer for layer in stack.layers if layer.window is not None), _NO_LOCAL)
    full = next((layer for layer in stack.layers if layer.window is None), _NO_FULL)
    some = stack.layers[0] if stack.layers else _NO_FULL
    kinds = {True: "full_attention", False: "sliding_attention"}
    return {
        "hidden_size": stack.hidden_dim,
        "intermediate_size": stack.mlp_dim,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": some.num_heads,
        "num_key_value_heads": some.num_kv_heads,
        "head_dim": some.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": context_length,
        "initializer_range": 0.02,
        "rms_norm_eps": stack.norm_epsilon,
        "attention_bias": False,
        "attention_dropout": some.dropout,
        "dropout_rate": stack.dropout,
        "query_pre_attn_scalar": _integer(some.query_pre_attn_scalar),
        "sliding_window": local.window,
        "layer_types": [kinds[layer.window is None] for layer in stack.layers],
        "rope_parameters": {"sliding_attention": _rope(local), "full_attention": _rope(full)},
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_cache": True,
        "tie_word_embeddings": True,
    }


def _rope(layer):
    theta = {"rope_theta": float(layer.rope_theta)}
    if layer.rope_factor == 1:
        return {"rope_type": "default", **theta}
    return {"rope_type": "linear", "factor": float(layer.rope_factor), **theta}


def _vision(vision):
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.hidden_dim,
        "intermediate_size": vision.mlp_dim,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "num_channels": 3,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": vision.norm_epsilon,
        "attention_dropout": vision.dropout,
        "vision_use_head": False,
    }


def _integer(number):
    """As a whole number, which the reference wants, where it is one."""
    return int(number) if number == int(number) else number


def check_reads_back(config, found):
    """Raises where what was written is read as `found`, and not as `config`."""
    wanted, found = (_flat(part.to_dict()) for part in (config, found))
    differing = [
        f"{name}={shown(value)} (which would be {shown(found.get(name))})"
        for name, value in {**dict.fromkeys(found), **wanted}.items()
        if found.get(name) != value
    ]
    if differing:
        raise ValueError(
            "The reference has one set of sizes for all layers of a stack, one window and one "
            "rotary embedding for each kind of layer, and one dropout of each kind for the whole "
            f"model. Received: {list_names(differing)}"
        )


def check_is_accepted(config):
    """Raises where the reference's own rules refuse what can be written."""
    for name, stack in config.stacks.items():
        layer = stack.layers[0]
        if stack.hidden_dim % layer.num_heads:
            raise ValueError(
                "The reference wants `hidden_dim` to be a multiple of `num_heads`. Received: "
                f"{name}.hidden_dim={stack.hidden_dim}, num_heads={layer.num_heads}"
            )
        if not isinstance(_integer(layer.query_pre_attn_scalar), int):
            raise ValueError(
                "The reference wants `query_pre_attn_scalar` to be a whole number. Received: "
                f"{name}.query_pre_attn_scalar={layer.query_pre_attn_scalar}"
            )


def _flat(value, name=""):
    """What nested dicts and lists hold, by names such as "encoder.layers.0.window"."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {name: value}
    found = {}
    for key, item in items:
        found |= _flat(item, f"{name}.{key}" if name else str(key))
    return found
