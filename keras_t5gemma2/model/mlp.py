"""The gated MLP of a layer."""

from keras import layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import StackConfig
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.linear import linear
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
