"""Attention over a layer's own tokens and the encoder's, merged or apart."""

from typing import Any, NamedTuple

from keras import layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import AttentionConfig
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.linear import linear
from keras_t5gemma2.model.norm import RMSNorm


class SharedMemory(NamedTuple):
    """The encoder's tokens for one layer of the decoder, where the layers share their vectors."""

    encoded: Any  # (B, 1, S, D), one tensor or `Scaled` for all layers
    inverse_norms: Any  # (B, K, S, 1) float32, of the keys
    key_kernel: Any  # (K, H, D)
    value_kernel: Any  # (K, D, H)
    positions: Any  # (B, S) int32, as `KeyValues` has them


class Memory(NamedTuple):
    """What the layers of the decoder see of the encoder's tokens.

    Shared tensors are stored once: listing them per layer would make a compiled program return one
    copy per layer.
    """

    shared: tuple  # the tensor of `SharedMemory` that all layers read; or nothing
    layers: tuple  # per layer its keys and values; or where one is shared, its own part of it
    positions: Any  # (B, S) int32, as `KeyValues` has them

    def of_layer(self, index):
        """The `KeyValues` or the `SharedMemory` of a layer."""
        kind = SharedMemory if self.shared else KeyValues
        return kind(*self.shared, *self.layers[index], self.positions)


@registered
class Attention(PlainCall, Configured, layers.Layer):
    """Grouped-query attention over the layer's own tokens and, in the decoder, the encoder's.

    Args:
        config: `AttentionConfig`.
        window: `kernels.Window`, the rule for the layer's own tokens.
        hidden_dim: int. Width of the inputs and outputs.
    """

    arguments = {"config": AttentionConfig, "window": Window, "hidden_dim": None}

    def __init__(self, config, window, hidden_dim, **kwargs):
        # Keras would cast float32 inputs that must stay so, such as the scales of a cache.
        super().__init__(autocast=False, **kwargs)
        self.config, self.window, self.hidden_dim = config, window, hidden_dim
        self.memory_dim = hidden_dim  # width of what keys and values are made of
        self.query = linear(self, "query", config.num_heads * config.head_dim)
        self.key = linear(self, "key", config.num_kv_heads * config.head_dim)
        self.value = linear(self, "value", config.num_kv_heads * config.head_dim)
        self.output_dense = linear(self, "output", hidden_dim)
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            same = {"epsilon": config.norm_epsilon, "dtype": self.dtype_policy}
            self.query_norm = RMSNorm(**same, name="query_norm")
            self.key_norm = RMSNorm(**same, name="key_norm")
        self.dropout = layers.Dropout(config.dropout, dtype="float32", name="dropout")

    def build(self, shape):
        self.query.build((None, None, self.hidden_dim))
        for dense in (self.key, self.value):
            dense.build((None, None, self.memory_dim))
        self.output_dense.build((None, None, self.config.num_heads * self.config.head_dim))
        if self.config.qk_norm:
            for norm in (self.query_norm, self.key_norm):
                norm.build((None, None, None, self.config.head_dim))
        self.built = True

    def call(self, x, at, memory=None, past=None, slot=None, training=False):
        """Attends from every token of `x`.

        Args:
            x: (B, T, D) tensor.
            at: `Positions` of the tokens of `x`.
            memory: `KeyValues` or `SharedMemory` of the encoder's tokens, or `None`.
            past: `KeyValues` of earlier tokens, whose positions already hold those of `x`; or
                `None`: then `x` holds all there are.
            slot: the slot of `past`, or slots, that the tokens of `x` go into.

        Returns:
            The (B, T, D) output, and the `KeyValues` of the own tokens, `past` included.
        """
        query, own = self.project(x, at)
        if past is not None:
            own = kernels.write(past, own, slot)
        seen = own if at.shards is None else at.shards.whole(own)
        mixed = self._mix(query, at, [(seen, self.window)], memory, training)
        return self.output_dense(kernels.merge_heads(mixed)), own

    def _mix(self, query, at, own, memory, training):
        """(B, N, T, H) of the queries: values of the segments `own` and of the encoder's tokens."""
        if isinstance(memory, SharedMemory) and query.shape[2] > kernels.FEW_QUERIES:
            # The keys and values of one layer at a time are in memory.
            encoded = kernels.plain(memory.encoded, query.dtype)
            memory = self.remember(encoded[:, 0], memory.positions)
        if isinstance(memory, SharedMemory):
            return self._attend_shared(query, at, own, memory)
        # The encoder's tokens are seen whole from every layer, sliding or not.
        segments = own + ([] if memory is None else [(memory, Window())])
        drop = self._drop if training and self.config.dropout else None
        how = self.scale, self.config.soft_cap, drop, at.shards
        return kernels.attend(query, at.positions, segments, *how)

    def project(self, x, at):
        """The (B, N, T, H) queries of the tokens of `x`, and their `KeyValues`."""
        query = at.rotate(self.queries(x), self.config)
        key = at.rotate(self._normed(self.key_norm, self._heads(self.key(x))), self.config)
        return query, KeyValues(key, self._heads(self.value(x)), at.positions)

    @property
    def scale(self):
        return self.config.query_pre_attn_scalar**-0.5

    def _attend_shared(self, query, at, own, memory):
        """Attention over the own tokens and the encoder's output, which all layers share.

        Keys of the encoder's tokens are not rotated: with k = norm(W h) * (1 + s) and r the
        inverse norm, the product q k is (W (q * (1 + s))) h * r, and the sum of p V h is V times
        the sum of p h. So nothing is projected but the query and the sum. Without a norm, s is 0
        and r is 1.
        """
        scaled = ops.cast(query, "float32")
        if self.key_norm is not None:
            scaled = scaled * (1.0 + ops.cast(self.key_norm.scale, "float32"))
        queries = [query for _ in own] + [self._by_head(scaled, memory.key_kernel)]
        keys = kernels.times(memory.encoded, memory.inverse_norms)
        seen = KeyValues(keys, memory.encoded, memory.positions)
        segments = [*own, (seen, Window())]
        how = self.scale, self.config.soft_cap
        *own_sums, seen_sum = kernels.weighted_sums(queries, at.positions, segments, *how)
        summed = sum(own_sums, self._by_head(seen_sum, memory.value_kernel))
        return ops.cast(summed, query.dtype)

    def _by_head(self, x, kernel):
        """(B, N, T, X) times (K, X, Y), the matrix of each head's key head."""
        (kv_heads, width, out), (_, heads, length, _) = kernel.shape, ops.shape(x)
        rows = ops.reshape(x, (-1, kv_heads, heads // kv_heads * length, width))
        product = ops.matmul(rows, ops.cast(kernel, x.dtype))
        return ops.reshape(product, (-1, heads, length, out))

    def _drop(self, probabilities):
        return self.dropout(probabilities, training=True)

    def remember(self, encoded, positions, training=False):
        """`KeyValues` of the encoder's tokens: the same projections, the keys not rotated."""
        # `training` is passed on: Keras's call context is absent during recomputation.
        key = self._heads(self.key(encoded, training=training))
        key = self._normed(self.key_norm, key)
        value = self._heads(self.value(encoded, training=training))
        return KeyValues(key, value, positions)

    def remember_shared(self, encoded):
        """This layer's part of a `SharedMemory` of (B, 1, S, D): small beside that itself."""
        heads, width = self.config.num_kv_heads, self.config.head_dim
        key = ops.cast(self._heads(self.key(encoded[:, 0])), "float32")
        if self.key_norm is None:
            inverse_norms = ops.ones_like(key[..., :1])
        else:
            mean = ops.mean(ops.square(key), axis=-1, keepdims=True)
            inverse_norms = ops.rsqrt(mean + self.config.norm_epsilon)
        # (in, heads * H) to a matrix for each head, of the keys transposed.
        key_kernel, value_kernel = (
            ops.reshape(dense.effective_kernel(), (self.memory_dim, heads, width))
            for dense in (self.key, self.value)
        )
        key_kernel = ops.transpose(key_kernel, (1, 2, 0))
        value_kernel = ops.transpose(value_kernel, (1, 0, 2))
        return inverse_norms, key_kernel, value_kernel

    def queries(self, x):
        """The (B, N, T, H) queries of the tokens of `x`, not rotated."""
        return self._normed(self.query_norm, self._heads(self.query(x)))

    def _normed(self, norm, x):
        return x if norm is None else norm(x)

    def _heads(self, x):
        return kernels.split_heads(x, self.config.head_dim)


@registered
class CrossAttention(Attention):
    """Attention over the encoder's tokens alone, which need not be as wide; nothing is rotated.

    Args:
        config: `AttentionConfig`, whose window and rotary embedding mean nothing here.
        hidden_dim: int. Width of the inputs and outputs.
        memory_dim: int. Width of the encoder's output.
    """

    arguments = {"config": AttentionConfig, "hidden_dim": None, "memory_dim": None}

    def __init__(self, config, hidden_dim, memory_dim, **kwargs):
        super().__init__(config, Window(), hidden_dim, **kwargs)
        self.memory_dim = memory_dim

    def call(self, x, at, memory, training=False):
        """The (B, T, D) output for every token of `x`; arguments as `Attention.call` has them."""
        mixed = self._mix(self.queries(x), at, [], memory, training)
        return self.output_dense(kernels.merge_heads(mixed))
