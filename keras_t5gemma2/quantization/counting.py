"""How many parameters a model has, whatever stores them: integers share bytes, and have scales."""

import math
import re
from collections.abc import Callable
from typing import Any

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.quantization.layers import Quantizable
from keras_t5gemma2.typing import Mixin


def parameters(layer, weights=None):
    """The number of parameters: of a quantized matrix, those of the matrix that it stands for.

    Args:
        layer: `keras.layers.Layer`, whose inner layers count.
        weights: list of variables to count only; by default all of the layer.
    """
    weights = {id(variable): variable for variable in (weights or layer.weights)}
    count = 0
    for inner in compat.all_layers(layer):
        if isinstance(inner, Quantizable) and inner.has_integers:
            stored = [weights.pop(id(variable), None) for variable in inner.stored_variables]
            count += math.prod(inner.matrix_shape) if any(v is not None for v in stored) else 0
    return count + sum(math.prod(variable.shape) for variable in weights.values())


class CountsParameters(Mixin):
    """A layer whose number of parameters is that of its `parameters`."""

    def count_params(self) -> int:
        """The number of parameters, a quantized matrix counted as what it stands for.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.quantize("int8")
        >>> backbone.count_params()
        2050976
        """
        return parameters(self)


class SummarizesParameters(CountsParameters):
    """A model whose summary counts `parameters`, beside the bytes that store them."""

    def summary(
        self, *args: Any, print_fn: Callable[..., None] | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.summary`; a quantized matrix counts as the one that it stands for.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> lines = []
        >>> backbone.summary(print_fn=lambda text, **_: lines.append(text))
        >>> "Total params: 2,050,976" in "".join(lines)
        True
        """
        summarize(self, super().summary, *args, print_fn=print_fn, **kwargs)


def summarize(model, summary, *args, print_fn=None, **kwargs):
    """`summary`, which is `keras.Model.summary` of a model, with its `parameters` in it."""
    counts = {
        "Total": parameters(model),
        "Trainable": _of(model, model.trainable_weights),
        "Non-trainable": _of(model, model.non_trainable_weights),
    }
    if counts["Total"] == sum(math.prod(variable.shape) for variable in model.weights):
        summary(*args, print_fn=print_fn, **kwargs)
        return
    lines = []
    summary(*args, print_fn=lambda text, **_: lines.append(text), **kwargs)
    text = "\n".join(lines).rstrip("\n")
    optimizer = getattr(model, "optimizer", None)
    if model.compiled and optimizer is not None and optimizer.built:
        counts["Total"] += sum(math.prod(variable.shape) for variable in optimizer.variables)
    for name, count in counts.items():
        text = re.sub(rf"(?m)^( {name} params: )[\d,]+", rf"\g<1>{count:,}", text)
    (print_fn or print)(text)


def _of(layer, weights):
    return parameters(layer, weights) if weights else 0
