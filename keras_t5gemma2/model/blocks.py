"""The layers that encoder and decoder are made of."""

from keras import layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import AttentionConfig, StackConfig
from keras_t5gemma2.kernels import Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.attention import Attention
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
        self.mlp_norm = RMSNorm(config.norm_epsilon, name="mlp_norm", **same)
        self.mlp = GatedMLP(config, name="mlp", **same)
        self.mlp_output_norm = RMSNorm(config.norm_epsilon, name="mlp_output_norm", **same)
        self.dropout = dropout_of(self)

    def build(self, _):
        for layer in (self.attention_norm, self.attention, self.attention_output_norm):
            layer.build((None, None, self.config.hidden_dim))
        for layer in (self.mlp_norm, self.mlp, self.mlp_output_norm):
            layer.build((None, None, self.config.hidden_dim))
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
        values = {"attention": self.attention.config, "window": self.attention.window}
        return values.get(name, self.config)
