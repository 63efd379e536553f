"""The norm of the text stacks."""

from keras import layers

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.residual import take_sums


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
