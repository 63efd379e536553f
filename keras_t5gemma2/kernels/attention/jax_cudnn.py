"""Attention by cuDNN's kernel for GPUs, where every token sees every other: the vision tower's.

What hides tokens in the two stacks are positions that only the running program knows. The kernel
takes padding at the right, or a mask of the size of all scores: neither says what is meant.
"""

import jax
import jax.numpy as jnp

from keras_t5gemma2.kernels.runtime.jax import by_platform

_LANES, _WIDEST = 8, 128  # a head's width is a multiple of the one, and at most the other


def why_not(query, segments):
    """Why the kernel computes no such call, or `None`."""
    (keys_values, _), *more = segments
    width = query.shape[3]
    if more or keys_values.positions is not None:
        return "it is for a vision tower, where every token sees every other"
    if query.dtype not in ("bfloat16", "float16"):
        return f"it computes in half precision, and the dtype is {query.dtype}"
    if width % _LANES or width > _WIDEST:
        return (
            f"the head width must be a multiple of {_LANES} and at most {_WIDEST}, and is {width}"
        )
    return None


def attend(query, positions, segments, scale):
    """See `kernels.attend`."""
    ((keys, values, _), _), *_ = segments
    tokens_first = (jnp.swapaxes(x, 1, 2) for x in (query, keys, values))

    def by(implementation):
        return lambda *call: jax.nn.dot_product_attention(
            *call, scale=scale, implementation=implementation
        )

    # By formulas where `kernels.use` asks for it elsewhere.
    output = by_platform({"cuda": by("cudnn")}, by("xla"), *tokens_first)
    return jnp.swapaxes(output, 1, 2)
