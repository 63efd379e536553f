"""Sizes far above those of any model: a larger one is a mistake, caught before memory runs out."""

import math

from keras_t5gemma2.options import number

LARGEST_SIZE = 1 << 24
MOST_LAYERS = 1_000
# The largest published model has 2e10.
_MOST_PARAMETERS = 10**11


def is_number(value):
    """Whether a value of JSON, or one of numpy, is a finite number that a float can hold."""
    value = number(value)
    return value is not None and math.isfinite(value)


def check_size(config, origin):
    """Raises where a model would be larger than any machine holds.

    Args:
        config: `BackboneConfig`.
        origin: what the error calls the file that it comes from.
    """
    count = num_parameters(config)
    if count > _MOST_PARAMETERS:
        raise ValueError(
            f"A model must not have more than {_MOST_PARAMETERS:.0e} parameters. Received: "
            f"{origin}, which describes {count:.1e}"
        )


def num_parameters(config):
    """About how many parameters a model has: all matrices, without norms and biases."""
    count = config.vocabulary_size * config.hidden_dim
    if config.decoder_table:
        count += config.vocabulary_size * config.decoder.hidden_dim
    for stack in config.stacks.values():
        for i, layer in enumerate(stack.layers):
            heads = 2 * layer.num_heads + 2 * layer.num_kv_heads
            mlps = stack.experts.num_experts if stack.has_experts(i) else 1
            count += stack.hidden_dim * (heads * layer.head_dim + 3 * mlps * stack.mlp_dim)
            if (width := stack.cross_attention_dim) is not None:
                queries = 2 * layer.num_heads * stack.hidden_dim
                count += (queries + 2 * layer.num_kv_heads * width) * layer.head_dim
    if (vision := config.vision) is not None:
        layer = 4 * vision.hidden_dim + 2 * vision.mlp_dim
        around = vision.patches_per_side**2 + 3 * vision.patch_size**2 + config.hidden_dim
        count += vision.hidden_dim * (vision.num_layers * layer + around)
    return count
