"""The optimizer of a task whose user has named none: one whose rate learns, for every size."""

import keras

# Rates for a model 4,096 wide: what full fine-tuning and QLoRA (arXiv 2305.14314) of 7B models use.
_RATE, _RATE_OF_ADAPTERS, _WIDTH = 2e-5, 2e-4, 4096
# How much faster narrower models are to be trained: the best rates of Llama's sizes lie on this
# power of the width, and ten times higher with LoRA (Schulman et al., "LoRA Without Regret", 2025).
_POWER = 0.781


def default_rate(hidden_dim, of_adapters):
    """The learning rate for a model of this width.

    Args:
        hidden_dim: int. Of the decoder.
        of_adapters: bool. Whether adapters are trained, not the weights themselves.

    >>> [float(f"{default_rate(width, of_adapters=True):.2g}") for width in (640, 1152, 2560)]
    [0.00085, 0.00054, 0.00029]
    """
    rate = _RATE_OF_ADAPTERS if of_adapters else _RATE
    return rate * (_WIDTH / hidden_dim) ** _POWER


def default_optimizer(hidden_dim, of_adapters):
    """AdamW with `default_rate`, gradients clipped to a norm of 1.0 as in the paper's training."""
    rate = default_rate(hidden_dim, of_adapters)
    return keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0)
