"""The two stacks of layers."""

import keras
from keras import layers, ops

from keras_t5gemma2.kernels import Window
from keras_t5gemma2.layers import Block, RMSNorm


class Stack(layers.Layer):
    """Layers and a last norm; the subclass says which tokens see which.

    Args:
        config: `StackConfig`.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.blocks = [
            Block(
                config,
                attention,
                self.window_rule(attention.window),
                dtype=self.dtype_policy,
                name=f"layer_{i}",
            )
            for i, attention in enumerate(config.layers)
        ]
        self.norm = RMSNorm(config.norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.dropout = layers.Dropout(config.dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, x_shape):
        for layer in (*self.blocks, self.norm):
            layer.build((None, None, self.config.hidden_dim))
        self.built = True

    def compute_output_spec(self, x, *args, **kwargs):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)


class Encoder(Stack):
    """The bidirectional stack."""

    window_rule = staticmethod(Window.bidirectional)

    def call(self, x, padding_mask, training=False):
        """The encoder's output, (B, S, D), of embedded tokens of that shape.

        `padding_mask` is (B, S); what stands where it is 0 changes no other row or token.
        """
        positions = encoder_positions(padding_mask)
        x = self.dropout(x, training=training)
        for block in self.blocks:
            x, _ = block(x, positions, training=training)
        return self.dropout(self.norm(x), training=training)


class Decoder(Stack):
    """The causal stack, whose every layer also attends to the encoder's output."""

    window_rule = staticmethod(Window.causal)

    def call(self, x, padding_mask, encoded, encoder_padding_mask, training=False):
        """The decoder's output, (B, T, D), of embedded tokens of that shape, all at once."""
        memory = self.remember(encoded, encoder_padding_mask)
        return self.step(x, decoder_positions(padding_mask), memory, training=training)[0]

    def remember(self, encoded, encoder_padding_mask):
        """Per layer, the encoder's output (B, S, D) as `KeyValues`: computed once an input."""
        positions = encoder_positions(encoder_padding_mask)
        return tuple(block.attention.remember(encoded, positions) for block in self.blocks)

    def step(self, x, positions, memory, past=None, slots=None, training=False):
        """The forward pass, the same for training, prefill and each new token.

        Args:
            x: (B, T, D) tensor of embedded tokens.
            positions: (B, T) int32 tensor; -1 hides a token.
            memory: what `remember` gave.
            past: per layer the `KeyValues` of earlier tokens, or `None`: then `x` holds all.
            slots: per layer, where in `past` the tokens of `x` go.

        Returns:
            The (B, T, D) output, and per layer the `KeyValues` of the own tokens.
        """
        x = self.dropout(x, training=training)
        own = []
        for i, block in enumerate(self.blocks):
            earlier = {} if past is None else {"past": past[i], "slot": slots[i]}
            x, fresh = block(x, positions, memory[i], **earlier, training=training)
            own.append(fresh)
        return self.dropout(self.norm(x), training=training), tuple(own)


def encoder_positions(padding_mask):
    """(B, S) int32: 0, 1, ... counting padding too, which is itself hidden as -1."""
    mask = ops.cast(padding_mask, "bool")
    return ops.where(mask, ops.arange(ops.shape(mask)[1], dtype="int32"), -1)


def decoder_positions(padding_mask):
    """(B, T) int32: 0 at each row's first token that is no padding, which is hidden as -1.

    Encoder keys carry no rotation, so the scores with them depend on the absolute position of a
    decoder token: left padding must not count.
    """
    mask = ops.cast(padding_mask, "bool")
    return ops.where(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, -1)
