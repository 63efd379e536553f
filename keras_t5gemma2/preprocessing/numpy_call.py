"""Calls of the preprocessing layers: plain Python, outside of a graph."""

from typing import Any

import keras

from keras_t5gemma2.compat.keras_hub import accepts_labels
from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.traced import is_traced
from keras_t5gemma2.typing import Mixin


class NumpyCall(Mixin):
    """A preprocessing layer that runs its `call` and nothing of Keras; goes before the base class.

    Keras would refuse texts and tensors together, and put all of its input into an error's
    message. In a graph, such as that of `tf.data`, Keras calls the layer as ever.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return super().__call__(*args, **kwargs)
        if any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten((args, kwargs))):
            return self._call_symbolic(*args, **kwargs)
        if len(args) == 1 and type(args[0]) is tuple and accepts_labels(self):
            args = args[0]
        return self.call(*args, **kwargs)

    def _call_symbolic(self, *args, **kwargs):
        if keras.config.backend() != "tensorflow":
            raise TypeError(
                f"A {type(self).__name__} takes data, not the symbolic `keras.Input`, on the "
                f"backend {keras.config.backend()}: it runs on numpy, outside of a model. "
                "Received: a KerasTensor. Call it on the data and give the model what it returns"
            )
        return super().__call__(*args, **kwargs)


def check_fixed(owner, options, fixed):
    """Takes options out of `options` that can be given in one way only.

    Args:
        owner: string, the name of the class.
        options: dict of keyword arguments of the constructor, changed in place.
        fixed: dict from the names of such options to their value and why there is no other.

    Raises:
        ValueError: another value.
    """
    for name in [name for name in options if name in fixed]:
        value, (only, reason) = options.pop(name), fixed[name]
        if not _is_same(value, only):
            raise ValueError(
                f"`{name}` of a {owner} must be {shown(only)}: {reason}. Received: {name}="
                f"{shown(value)}. Leave it out"
            )


def _is_same(value, only):
    name = getattr(value, "name", value)  # of a policy of dtypes
    if only is None:
        return name is None
    return isinstance(name, (str, bool, int, float)) and name == only
