"""Attention by JAX's splash kernel for TPUs, which skips the blocks that a window hides.

It takes one segment of keys, and its window counts tokens of the input: it is for the encoder,
whose positions are the indices of its tokens. Keras's own wrapper (3.15) ignores the bias and
does not scale the scores, which the kernel does not either.
"""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from keras_t5gemma2.kernels.runtime.jax import by_platform

_LANES = 128
_BLOCK = 512


def attend(query, positions, segments, scale, cap=None):
    """See `kernels.attend`."""
    ((keys, values, key_positions), window), *_ = segments
    (batch, heads, length, width), kv_heads = query.shape, keys.shape[1]
    query = (query.astype("float32") * scale).astype(query.dtype)
    # Filled up with what adds nothing to a score: the heads of the vision tower have 72 numbers.
    query, keys, values = (_filled(x, width) for x in (query, keys, values))
    query = query.reshape(batch, kv_heads, heads // kv_heads, length, query.shape[-1])

    def of_rows(is_interpreted):
        kernel = _kernel(heads // kv_heads, length, window, is_interpreted, cap)
        of_row = jax.vmap(kernel, in_axes=(0, 0, 0, None))
        return lambda query, keys, values, ids: jax.vmap(of_row)(
            query, keys, values, splash.SegmentIds(q=ids, kv=ids)
        )

    if key_positions is None:
        segment_ids = jnp.zeros((batch, length), "int32")
    else:
        # Tokens see those of their own segment: padding is another one.
        segment_ids = (key_positions < 0).astype("int32")
    # Interpreted where `kernels.use` asks for it elsewhere.
    call = query, keys, values, segment_ids
    output = by_platform({"tpu": of_rows(False)}, of_rows(True), *call)
    return output[..., :width].reshape(batch, heads, length, width)


def _filled(x, width):
    """`x` (..., width) with zeros up to whole lanes."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -width % _LANES)])


@functools.lru_cache(maxsize=16)
def _kernel(*sizes):
    """`_made` in a thread, where there is neither a trace nor a mesh that its tables could be of.

    Made by the body of `shard_map`, they would be tracers even where constants are computed (JAX
    0.10), and a program for another platform would get them as arguments.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_made, *sizes).result()


def _made(groups, length, window, is_interpreted, cap):
    """The kernel of one key head and the `groups` query heads that share it."""
    shape = (length, length)
    if window.left is None and window.right is None:
        mask = masks.FullMask(shape)
    else:
        mask = masks.LocalMask(shape, (window.left, window.right), 0)
    size = next(size for size in (_BLOCK, 256, _LANES) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = splash.BlockSizes(**{f"block_{name}": size for name in names})
    kernel = splash.make_splash_mqa_single_device(
        masks.MultiHeadMask([mask] * groups),
        block_sizes=sizes,
        attn_logits_soft_cap=cap,
        interpret=is_interpreted,
    )
    return jax.tree.map(np.asarray, kernel)
