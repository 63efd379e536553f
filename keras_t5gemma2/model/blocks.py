"""The layers that encoder and decoder are made of."""

from keras import layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import AttentionConfig, StackConfig
from keras_t5gemma2.kernels import Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.attention import Attention, CrossAttention
from keras_t5gemma2.model.linear import linear
from keras_t5gemma2.model.norm import RMSNorm
from keras_t5gemma2.model.residual import dropout_of, dropped

# Of a long input, as many tokens are as wide as the MLP at the same time.
TOKENS_AT_A_TIME = 2048


@registered
class GatedMLP(PlainCall, Configured, layers.Layer):
    """down(gelu(gate(x)) * up(x)), with the tanh form of gelu."""

    arguments = {"config": StackConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.gate = linear(self, "gate", config.mlp_dim)
        self.up = linear(self, "up", config.mlp_dim)
        self.down = linear(self, "down", config.hidden_dim)
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
        # Gradients keep the outputs of `gate` and `up`; what follows is computed again.
        gated = kernels.rematerialized(kernels.gated) if training else kernels.gated
        mixed, sizes = gated(self.gate(x), self.up(x))
        y = self.down(dropped(self.dropout, mixed, training))
        return ops.cast(y, "float32") * sizes[0] if sizes else y


@registered
class Block(PlainCall, Configured, layers.Layer):
    """One layer: attention, then MLP, each between two norms and added to its input.

    With a `cross_attention_dim` in the config, the encoder's tokens have an attention of their own
    between the two.

    Args:
        config: `StackConfig`.
        attention: `AttentionConfig` of this layer.
        window: `kernels.Window`, the rule for the layer's own tokens.
    """

    arguments = {"config": StackConfig, "attention": AttentionConfig, "window": Window}

    def __init__(self, config, attention, window, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as `Attention`
        self.config = config
        same = {"dtype": self.dtype_policy}
        self.attention_norm = RMSNorm(config.norm_epsilon, name="attention_norm", **same)
        self.attention = Attention(attention, window, config.hidden_dim, name="attention", **same)
        self.attention_output_norm = RMSNorm(
            config.norm_epsilon, name="attention_output_norm", **same
        )
        self.cross_attention_norm = self.cross_attention = self.cross_attention_output_norm = None
        if (width := config.cross_attention_dim) is not None:
            self.cross_attention_norm = RMSNorm(
                config.norm_epsilon, name="cross_attention_norm", **same
            )
            self.cross_attention = CrossAttention(
                attention, config.hidden_dim, width, name="cross_attention", **same
            )
            self.cross_attention_output_norm = RMSNorm(
                config.norm_epsilon, name="cross_attention_output_norm", **same
            )
        self.mlp_norm = RMSNorm(config.norm_epsilon, name="mlp_norm", **same)
        self.mlp = GatedMLP(config, name="mlp", **same)
        self.mlp_output_norm = RMSNorm(config.norm_epsilon, name="mlp_output_norm", **same)
        self.dropout = dropout_of(self)

    def build(self, _):
        layers = [self.attention_norm, self.attention, self.attention_output_norm]
        if self.cross_attention is not None:
            layers += [self.cross_attention_norm, self.cross_attention]
            layers += [self.cross_attention_output_norm]
        for layer in (*layers, self.mlp_norm, self.mlp, self.mlp_output_norm):
            layer.build((None, None, self.config.hidden_dim))
        self.built = True

    def call(self, x, at, memory=None, past=None, slot=None, training=False):
        """As `Attention.call`: the (B, T, D) output and the `KeyValues` of the own tokens.

        `x` and the output are of the `sum_dtype`.
        """
        x, own = self.after_attention(x, at, memory, past, slot, training)
        return self.after_own_tokens(x, at, memory, training), own

    def after_attention(self, x, at, memory=None, past=None, slot=None, training=False):
        """As `call`, up to the attention that sees the own tokens."""
        merged = memory if self.cross_attention is None else None
        y, own = self.attention(
            self.attention_norm(x), at=at, memory=merged, past=past, slot=slot, training=training
        )
        return x + dropped(
            self.dropout, self.attention_output_norm(y, dtype=x.dtype), training
        ), own

    def after_own_tokens(self, x, at, memory=None, training=False):
        """The (B, T, D) output of what `after_attention` gave."""
        if self.cross_attention is not None:
            y = self.cross_attention_norm(x)
            y = self.cross_attention(y, at=at, memory=memory, training=training)
            y = self.cross_attention_output_norm(y, dtype=x.dtype)
            x = x + dropped(self.dropout, y, training)
        y = self.mlp(self.mlp_norm(x), training=training)
        return x + dropped(self.dropout, self.mlp_output_norm(y, dtype=x.dtype), training)

    @property
    def memory_attention(self):
        """The attention that reads the encoder's tokens."""
        return self.attention if self.cross_attention is None else self.cross_attention

    def argument(self, name):
        values = {"attention": self.attention.config, "window": self.attention.window}
        return values.get(name, self.config)
