"""The dense layers and the table of the model, as its other layers see them.

A matrix may be of integers (`quantization/`) and have low-rank adapters beside it (`lora/`). The
model knows neither: it makes its matrices here, and uses what `Linear` says.
"""

from typing import Any, Protocol

from keras import initializers

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.quantization.counting import CountsParameters
from keras_t5gemma2.quantization.layers import QuantizedDense, QuantizedEmbedding

__all__ = ["CountsParameters", "Linear", "embedding_table", "linear", "linears", "vision_linear"]


class Linear(Protocol):
    """A dense layer of the text stacks, (..., in) to (..., out), as `lora.dense.Dense` is one."""

    compute_dtype: str  # of the product

    def build(self, shape):
        """Makes the kernel, of inputs (..., in)."""

    def __call__(self, x, training=None):
        """(..., out) product of `x` and the kernel, and what active adapters add to it."""

    def effective_kernel(self):
        """(in, out) tensor whose product with an input is the output, adapters included."""

    def lay_out(self, is_training):
        """Sets the memory order of the kernel: that of decoding steps, unless it is trained."""


def linear(owner: Any, name: str, units: int) -> Linear:
    """A dense layer without bias inside the layer `owner`."""
    normal = initializers.RandomNormal(stddev=0.02)
    return Dense(units, kernel_initializer=normal, dtype=owner.dtype_policy, name=name)


def linears(layer: Any) -> list[Linear]:
    """All that `linear` has made inside of a layer."""
    return [inner for inner in compat.all_layers(layer) if isinstance(inner, Dense)]


def vision_linear(owner, name, units, use_bias=True):
    """A dense layer of the vision tower or its projector, which takes no adapters."""
    return QuantizedDense(units, use_bias=use_bias, dtype=owner.dtype_policy, name=name)


def embedding_table(owner, name, rows, width, logit_soft_cap):
    """A table that gives (..., width) of ids, and with `reverse=True` (..., rows) logits."""
    table = {"embeddings_initializer": initializers.RandomNormal(stddev=0.02)}
    cap = {"logit_soft_cap": logit_soft_cap}
    return QuantizedEmbedding(rows, width, **table, **cap, dtype=owner.dtype_policy, name=name)
