"""`quantize` of a task: its backbone's, and what it means for all else that a task has."""

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.model.quantize import OwnsQuantize


class QuantizesBackbone(OwnsQuantize):
    """A task whose backbone can be quantized; the base of one that has adapters."""

    def quantize(self, mode=None, config=None, filters=None):
        """Makes the matrices of both stacks, and the embedding table, ones of integers.

        See `T5Gemma2Backbone.quantize`. Adapters stay beside the matrices, and can be added and
        trained on them as ever; those that are merged become a part of the weights for good. The
        optimizer starts anew.

        Args:
            mode: "int8", "int4", or a config of `keras.quantizers`.
            config: such a config.
            filters: regular expressions of the paths of layers, or a function of a layer.

        Raises:
            ValueError: there is no such mode, or nothing left that it could quantize.

        Example:

            lm.quantize("int4", filters="^(encoder|decoder)/")
            lm.quantize("int8", filters="^embedder/")
        """
        before = self.backbone.quantized_layers
        try:
            self.backbone.quantize(mode, config, filters)
        finally:  # interrupted, it has changed a part of the layers
            if self.backbone.quantized_layers != before:
                self.keep_merged()
                compat.finish_quantizing(self, self.dtype_policy.quantization_mode)
                self._forget_programs()
                self._reset_optimizer()

    def get_quantization_layer_structure(self, mode):
        return self.backbone.get_quantization_layer_structure(mode)
