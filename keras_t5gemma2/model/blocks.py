"""The layers that encoder and decoder are made of."""

from keras import layers

from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import AttentionConfig, StackConfig
from keras_t5gemma2.kernels import Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.attention import Attention, CrossAttention
from keras_t5gemma2.model.experts import Experts
from keras_t5gemma2.model.mlp import GatedMLP
from keras_t5gemma2.model.norm import RMSNorm
from keras_t5gemma2.model.residual import dropout_of, dropped


@registered
class Block(PlainCall, Configured, layers.Layer):
    """One layer: attention, then MLP, each between two norms and added to its input.

    With a `cross_attention_dim` in the config, the encoder's tokens have an attention of their own
    between the two.

    Args:
        config: `StackConfig`.
        attention: `AttentionConfig` of this layer.
        window: `kernels.Window`, the rule for the layer's own tokens.
        has_experts: bool. Whether the MLP is one of several for each token.
    """

    arguments = {
        **{"config": StackConfig, "attention": AttentionConfig, "window": Window},
        "has_experts": None,
    }

    def __init__(self, config, attention, window, has_experts=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as `Attention`
        self.config, self.has_experts = config, has_experts
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
        self.mlp = (Experts if has_experts else GatedMLP)(config, name="mlp", **same)
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
        y = self._mlp(self.mlp_norm(x), at, training)
        return x + dropped(self.dropout, self.mlp_output_norm(y, dtype=x.dtype), training)

    @property
    def memory_attention(self):
        """The attention that reads the encoder's tokens."""
        return self.attention if self.cross_attention is None else self.cross_attention

    def _mlp(self, x, at, training):
        if not self.has_experts:
            return self.mlp(x, training=training)
        return self.mlp(x, at=at, training=training)

    def argument(self, name):
        values = {"attention": self.attention.config, "window": self.attention.window}
        values["has_experts"] = self.has_experts
        return values.get(name, self.config)
