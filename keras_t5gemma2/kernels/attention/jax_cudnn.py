"""Attention by cuDNN's kernel for GPUs, where every token sees every other: the vision tower's.

What hides tokens in the two stacks are positions that only the running program knows. The kernel
takes padding at the right, or a mask of the size of all scores: neither says what is meant.
"""

import jax
import jax.numpy as jnp

_LANES, _WIDEST = 8, 128  # a head's width is a multiple of the one, and at most the other


def can(query, segments):
    """Whether the kernel computes such a call."""
    (keys_values, _), *more = segments
    is_half = query.dtype in ("bfloat16", "float16")
    is_whole = not more and keys_values.positions is None
    width = query.shape[3]
    return is_half and is_whole and width % _LANES == 0 and width <= _WIDEST


def attend(query, positions, segments, scale):
    """See `kernels.attend`."""
    ((keys, values, _), _), *_ = segments
    tokens_first = (jnp.swapaxes(x, 1, 2) for x in (query, keys, values))
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"
    output = jax.nn.dot_product_attention(*tokens_first, scale=scale, implementation=implementation)
    return jnp.swapaxes(output, 1, 2)
