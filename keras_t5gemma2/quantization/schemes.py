"""Which of Keras's configurations of 8 and 4 bits this package computes with."""

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.quantization.codes import Scheme


def check_quantized_dtype(mode, dtype):
    """Raises a `ValueError` if layers that compute in `dtype` cannot be of this mode."""
    if dtype == "float16" and mode.startswith("int8"):
        raise ValueError(
            "Weights of 8 bits cannot be computed with in float16, as Keras has it: sums of such "
            'integers leave its range. Received: mode="int8" and a compute dtype of float16. Use '
            '"int4", or a model of float32 or bfloat16'
        )


def scheme_of(config):
    """The `Scheme` of a Keras configuration of 8 or 4 bits.

    Raises:
        ValueError: it has quantizers of its own, which this package does not compute with.
    """
    rounded = config.activation_quantizer
    is_known = type(rounded) is keras.quantizers.AbsMaxQuantizer and config.mode == "int8"
    if config.weight_quantizer is not None or not (rounded is None or is_known):
        raise ValueError(
            "`config` must have no `weight_quantizer`, and as `activation_quantizer` `None` or, "
            "for 8 bits, Keras's default. Received: "
            f"weight_quantizer={shown(config.weight_quantizer)}, "
            f"activation_quantizer={shown(rounded)}"
        )
    if config.mode == "int8":
        return Scheme(8)
    block = config.block_size
    return Scheme(4, None if block in (None, -1) else block)
