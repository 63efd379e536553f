"""The layers that encoder and decoder are made of."""

from typing import Any, NamedTuple

import numpy as np
from keras import initializers, layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.quantization.counting import CountsParameters
from keras_t5gemma2.quantization.layers import QuantizedEmbedding

# Of a long input, so many tokens are as wide as the MLP at the same time.
TOKENS_AT_A_TIME = 2048


def sum_dtype(dtype):
    """The dtype of sums over layers that compute in `dtype`: of what a stack hands on.

    The published models grow past 65,504, where float16 ends. Their products stay below it: only
    those are float16, and what they are added to is float32. bfloat16 has the range of float32.
    """
    return "float32" if dtype == "float16" else dtype


def take_sums(layer):
    """Has `layer` get sums of the `sum_dtype` as they are, where Keras would cast them."""
    if sum_dtype(layer.compute_dtype) != layer.compute_dtype:
        layer.autocast = False
    return layer


@registered
class Embedder(CountsParameters, PlainCall, Configured, layers.Layer):
    """The one embedding table: ids to vectors for both stacks, and hidden states to logits.

    The end-of-image id has a vector of its own, which is not scaled and which the logits do not
    see (reference: `T5Gemma2TextScaledWordEmbedding`).

    Args:
        config: `BackboneConfig`.
    """

    arguments = {"config": BackboneConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.config = config
        self.table = QuantizedEmbedding(
            config.vocabulary_size,
            config.hidden_dim,
            embeddings_initializer=initializers.RandomNormal(stddev=0.02),
            logit_soft_cap=config.final_logit_soft_cap,
            dtype=self.dtype_policy,
            name="table",
        )

    def build(self, _):
        self.table.build()
        self.end_of_image = self.add_weight(
            name="end_of_image", shape=(self.config.hidden_dim,), initializer="zeros"
        )
        self.built = True

    def call(self, token_ids):
        x = self.table(token_ids)
        x = ops.cast(x, sum_dtype(self.compute_dtype))
        # The scale is rounded to the dtype of the vectors, as in the reference.
        x = x * ops.cast(self.config.hidden_dim**0.5, x.dtype)
        is_end_of_image = ops.equal(token_ids, self.config.end_of_image_token_id)
        return ops.where(
            ops.expand_dims(is_end_of_image, -1), ops.cast(self.end_of_image, x.dtype), x
        )

    def compute_output_shape(self, shape):
        return (*shape, self.config.hidden_dim)


@registered
class RMSNorm(PlainCall, Configured, layers.Layer):
    """x / rms(x) * (1 + scale), computed in float32; the stored scale starts at zero."""

    arguments = {"epsilon": None}

    def __init__(self, epsilon, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.epsilon = epsilon

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="zeros")
        self.built = True

    def call(self, x, dtype=None):
        """The norm in `dtype`, by default that in which the layer computes."""
        return kernels.rms_norm(x, self.scale, self.epsilon, dtype or self.compute_dtype)


class SharedMemory(NamedTuple):
    """The encoder's tokens for one layer of the decoder, where the layers share their vectors."""

    encoded: Any  # (B, 1, S, D), one tensor or `Scaled` for all layers
    inverse_norms: Any  # (B, K, S, 1) float32, of the keys
    key_kernel: Any  # (K, H, D)
    value_kernel: Any  # (K, D, H)
    positions: Any  # (B, S) int32, as `KeyValues` has them


class Memory(NamedTuple):
    """What the layers of the decoder see of the encoder's tokens.

    What they share is in it once: a compiled program makes a tensor for every place in its result.
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
        # What is kept in float32 stays so: scales of a cache, say.
        super().__init__(autocast=False, **kwargs)
        self.config, self.window, self.hidden_dim = config, window, hidden_dim
        self.query = self._dense("query", config.num_heads * config.head_dim)
        self.key = self._dense("key", config.num_kv_heads * config.head_dim)
        self.value = self._dense("value", config.num_kv_heads * config.head_dim)
        self.output_dense = self._dense("output", hidden_dim)
        self.query_norm = RMSNorm(config.norm_epsilon, dtype=self.dtype_policy, name="query_norm")
        self.key_norm = RMSNorm(config.norm_epsilon, dtype=self.dtype_policy, name="key_norm")
        self.dropout = layers.Dropout(config.dropout, dtype="float32", name="dropout")

    def build(self, shape):
        for dense in (self.query, self.key, self.value):
            dense.build((None, None, self.hidden_dim))
        self.output_dense.build((None, None, self.config.num_heads * self.config.head_dim))
        for norm in (self.query_norm, self.key_norm):
            norm.build((None, None, None, self.config.head_dim))
        self.built = True

    def call(self, x, at, memory=None, past=None, slot=None, training=False):
        """Attends from every token of `x`.

        Args:
            x: (B, T, D) tensor.
            at: `Places` of the tokens of `x`.
            memory: `KeyValues` or `SharedMemory` of the encoder's tokens, or `None`.
            past: `KeyValues` of earlier tokens, whose positions already hold those of `x`; or
                `None`: then `x` holds all there are.
            slot: where in `past` the tokens of `x` go.

        Returns:
            The (B, T, D) output, and the `KeyValues` of the own tokens, `past` included.
        """
        query = at.rotate(self.query_norm(self._heads(self.query(x))), self.config)
        key = at.rotate(self.key_norm(self._heads(self.key(x))), self.config)
        own = KeyValues(key, self._heads(self.value(x)), at.positions)
        if past is not None:
            own = kernels.write(past, own, slot)

        if isinstance(memory, SharedMemory) and query.shape[2] > kernels.FEW_QUERIES:
            # A layer's keys and values are made, used and forgotten.
            encoded = kernels.plain(memory.encoded, query.dtype)
            memory = self.remember(encoded[:, 0], memory.positions)
        if isinstance(memory, SharedMemory):
            mixed = self._attend_shared(query, at, own, memory)
        else:
            seen = own if at.shards is None else at.shards.whole(own)
            # The encoder's tokens are seen whole from every layer, sliding or not.
            parts = [(seen, self.window)] + ([] if memory is None else [(memory, Window())])
            drop = self._drop if training and self.config.dropout else None
            mixed = kernels.attend(query, at.positions, parts, self.scale, drop, at.shards)
        return self.output_dense(kernels.merge_heads(mixed)), own

    @property
    def scale(self):
        return self.config.query_pre_attn_scalar**-0.5

    def _attend_shared(self, query, at, own, memory):
        """Attention over the own tokens and the encoder's output, which all layers share.

        Keys of the encoder's tokens are not rotated: with k = norm(W h) * (1 + s) and r the
        inverse norm, the product q k is (W (q * (1 + s))) h * r, and the sum of p V h is V times
        the sum of p h. So nothing is projected but the query and the sum.
        """
        scaled = ops.cast(query, "float32") * (1.0 + ops.cast(self.key_norm.scale, "float32"))
        queries = [query, self._by_head(scaled, memory.key_kernel)]
        keys = kernels.times(memory.encoded, memory.inverse_norms)
        seen = KeyValues(keys, memory.encoded, memory.positions)
        parts = [(own, self.window), (seen, Window())]
        own_sum, seen_sum = kernels.weighted_sums(queries, at.positions, parts, self.scale)
        summed = own_sum + self._by_head(seen_sum, memory.value_kernel)
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
        # Said here: in a recomputation no call around this one tells the layers.
        key = self.key_norm(self._heads(self.key(encoded, training=training)))
        value = self._heads(self.value(encoded, training=training))
        return KeyValues(key, value, positions)

    def remember_shared(self, encoded):
        """This layer's part of a `SharedMemory` of (B, 1, S, D): small beside that itself."""
        heads, width = self.config.num_kv_heads, self.config.head_dim
        key = ops.cast(self._heads(self.key(encoded[:, 0])), "float32")
        mean = ops.mean(ops.square(key), axis=-1, keepdims=True)
        inverse_norms = ops.rsqrt(mean + self.config.norm_epsilon)
        # (in, heads * H) to a matrix for each head, of the keys transposed.
        key_kernel, value_kernel = (
            ops.reshape(dense.effective_kernel(), (self.hidden_dim, heads, width))
            for dense in (self.key, self.value)
        )
        key_kernel = ops.transpose(key_kernel, (1, 2, 0))
        value_kernel = ops.transpose(value_kernel, (1, 0, 2))
        return inverse_norms, key_kernel, value_kernel

    def _dense(self, name, units):
        return Dense(
            units,
            kernel_initializer=initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name=name,
        )

    def _heads(self, x):
        return kernels.split_heads(x, self.config.head_dim)


@registered
class GatedMLP(PlainCall, Configured, layers.Layer):
    """down(gelu(gate(x)) * up(x)), with the tanh form of gelu."""

    arguments = {"config": StackConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.gate = self._dense("gate", config.mlp_dim)
        self.up = self._dense("up", config.mlp_dim)
        self.down = self._dense("down", config.hidden_dim)
        self.dropout = dropout_of(self)

    def build(self, _):
        self.gate.build((None, None, self.config.hidden_dim))
        self.up.build((None, None, self.config.hidden_dim))
        self.down.build((None, None, self.config.mlp_dim))
        self.built = True

    def call(self, x, training=False):
        if training:  # what a gradient needs is kept anyway
            return self._call(x, training)
        return kernels.by_pieces(self._call, x, TOKENS_AT_A_TIME)

    def _call(self, x, training=False):
        # These two are kept for gradients, and what is computed between them is not.
        gated = kernels.rematerialized(kernels.gated) if training else kernels.gated
        mixed, sizes = gated(self.gate(x), self.up(x))
        y = self.down(dropped(self.dropout, mixed, training))
        return ops.cast(y, "float32") * sizes[0] if sizes else y

    _dense = Attention._dense


@registered
class Block(PlainCall, Configured, layers.Layer):
    """One layer: attention, then MLP, each between two norms and added to its input.

    Args:
        config: `StackConfig`.
        attention: `AttentionConfig` of this layer.
        window: `kernels.Window`, the rule for the layer's own tokens.
    """

    arguments = {"config": StackConfig, "attention": AttentionConfig, "window": Window}

    def __init__(self, config, attention, window, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as `Attention`
        self.config = config
        self.attention_norm = self._norm("attention_norm")
        self.attention = Attention(
            attention, window, config.hidden_dim, dtype=self.dtype_policy, name="attention"
        )
        self.attention_output_norm = self._norm("attention_output_norm")
        self.mlp_norm = self._norm("mlp_norm")
        self.mlp = GatedMLP(config, dtype=self.dtype_policy, name="mlp")
        self.mlp_output_norm = self._norm("mlp_output_norm")
        self.dropout = dropout_of(self)

    def build(self, _):
        shape = (None, None, self.config.hidden_dim)
        for layer in (
            self.attention_norm,
            self.attention,
            self.attention_output_norm,
            self.mlp_norm,
            self.mlp,
            self.mlp_output_norm,
        ):
            layer.build(shape)
        self.built = True

    def call(self, x, at, memory=None, past=None, slot=None, training=False):
        """As `Attention.call`: the (B, T, D) output and the `KeyValues` of the own tokens.

        `x` and the output are of the `sum_dtype`.
        """
        y, own = self.attention(
            self.attention_norm(x), at=at, memory=memory, past=past, slot=slot, training=training
        )
        x = x + dropped(self.dropout, self.attention_output_norm(y, dtype=x.dtype), training)
        y = self.mlp(self.mlp_norm(x), training=training)
        x = x + dropped(self.dropout, self.mlp_output_norm(y, dtype=x.dtype), training)
        return x, own

    def argument(self, name):
        if name == "config":
            return self.config
        return self.attention.config if name == "attention" else self.attention.window

    def _norm(self, name):
        return RMSNorm(self.config.norm_epsilon, dtype=self.dtype_policy, name=name)


class Places:
    """Where the tokens of a call stand: their positions, and the turns that these give.

    Args:
        positions: (B, T) int32 tensor; -1 hides a token.
        configs: the `AttentionConfig` of each layer of the call.
        shards: `TokenShards` where the rows are parts of one, which all see each other; or `None`.
    """

    def __init__(self, positions, configs, shards=None):
        self.positions, self.shards = positions, shards
        # The layers of a stack share one or two kinds of rotation: each is computed once.
        self._turns = {kind: _turn(positions, *kind) for kind in {_kind(c) for c in configs}}

    def rotate(self, x, config):
        """Rotary embedding of (B, heads, T, H): pair (i, i + H/2) turned by its angle.

        The turn is float32, rounded once (reference: `T5Gemma2RotaryEmbedding`).
        """
        return kernels.rotate(x, *self._turns[_kind(config)])


def _kind(config):
    return config.rope_theta, config.rope_factor, config.head_dim


def _turn(positions, theta, factor, width):
    """Float32 (B, 1, T, H) cosines, and sines of the sign that they have in each half."""
    half = width // 2
    frequencies = theta ** (-np.arange(half) / half) / factor
    frequencies = ops.convert_to_tensor(frequencies, dtype="float32")
    angles = ops.cast(positions, "float32")[:, None, :, None] * frequencies
    cos, sin = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([cos, cos], axis=-1), ops.concatenate([-sin, sin], axis=-1)


def dropout_of(layer):
    """The dropout of a layer's activations, whatever their dtype."""
    rate = layer.config.dropout
    return take_sums(layers.Dropout(rate, dtype=layer.dtype_policy, name="dropout"))


def dropped(dropout, x, training):
    """`x` after a dropout layer, which is not even called where it does nothing."""
    return dropout(x, training=True) if training and dropout.rate else x
