"""The config of a layer: all arguments of its constructor, as plain JSON and back."""

from typing import Any

import keras

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.config import to_json

registered = keras.saving.register_keras_serializable(package="keras_t5gemma2")


class Configured:
    """A layer that `from_config` makes again of `get_config`; goes before `keras.layers.Layer`.

    Attributes:
        arguments: dict from the names of the constructor's arguments to the dataclasses of their
            values, or to `None` where a value is plain JSON.
    """

    arguments: dict[str, Any] = {}

    def argument(self, name):
        """The value that the constructor got."""
        return getattr(self, name)

    def get_config(self):
        """As Keras has it.

        Raises:
            NotImplementedError: a part of the layer is quantized, which its arguments do not say.
        """
        if any(layer.quantization_mode is not None for layer in compat.all_layers(self)):
            raise NotImplementedError(
                f"The layer {self.path!r} is quantized, and cannot be saved or cloned outside of "
                "its backbone. Put layers of your own on `backbone(backbone.input)`, and not on "
                "`backbone.output`: then the backbone is saved as one layer"
            )
        own = {name: to_json(self.argument(name)) for name in self.arguments}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config):
        """As Keras has it."""
        values = {
            name: kind.from_dict(config[name])
            for name, kind in cls.arguments.items()
            if kind is not None
        }
        return super().from_config({**config, **values})
