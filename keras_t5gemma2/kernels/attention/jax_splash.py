"""Attention by JAX's splash kernel for TPUs, which skips the blocks that a window hides.

It takes one segment of keys, and its window counts tokens of the input: it is for the encoder,
whose positions are the indices of its tokens. Keras's own wrapper (3.15) ignores the bias and
does not scale the scores, which the kernel does not either.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

_LANES = 128  # of which lengths and widths must be multiples
_BLOCK = 512


def can(query, segments):
    """Whether the kernel computes such a call."""
    (keys_values, window), *more = segments
    length, width = query.shape[2:]
    is_square = keys_values.keys.shape[2] == length
    is_encoder = not more and window.right != 0
    return is_encoder and is_square and length % _LANES == 0 and width % _LANES == 0


def attend(query, positions, segments, scale, cap=None):
    """See `kernels.attend`."""
    ((keys, values, key_positions), window), *_ = segments
    (batch, heads, length, width), kv_heads = query.shape, keys.shape[1]
    query = (query.astype("float32") * scale).astype(query.dtype)
    query = query.reshape(batch, kv_heads, heads // kv_heads, length, width)
    kernel = _kernel(heads // kv_heads, length, window, jax.default_backend() != "tpu", cap)

    def of_row(query, keys, values, segment_ids):
        return jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, keys, values, segment_ids)

    if key_positions is None:
        segment_ids = jnp.zeros((batch, length), "int32")
    else:
        # Tokens see those of their own segment: padding is another one.
        segment_ids = (key_positions < 0).astype("int32")
    output = jax.vmap(of_row)(query, keys, values, splash.SegmentIds(q=segment_ids, kv=segment_ids))
    return output.reshape(batch, heads, length, width)


@functools.lru_cache(maxsize=16)
def _kernel(groups, length, window, is_interpreted, cap=None):
    """Of one key head and the `groups` query heads that share it."""
    shape = (length, length)
    if window.left is None and window.right is None:
        mask = masks.FullMask(shape)
    else:
        mask = masks.LocalMask(shape, (window.left, window.right), 0)
    size = next(size for size in (_BLOCK, 256, _LANES) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = splash.BlockSizes(**{f"block_{name}": size for name in names})
    # Its tables are arrays: made while a program is traced, they would belong to that program.
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mqa_single_device(
            masks.MultiHeadMask([mask] * groups),
            block_sizes=sizes,
            attn_logits_soft_cap=cap,
            interpret=is_interpreted,
        )
