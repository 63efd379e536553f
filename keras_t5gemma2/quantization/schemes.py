"""Which of Keras's configurations of 8 and 4 bits this package computes with."""

import re

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.quantization.codes import FP8, Q4_0, SYMMETRIC, Scheme

# Numbers that share a scale where 4 bits are asked for and nothing else is said: every width of
# the published models is a multiple, and a weight takes 4.75 bits with scales of bfloat16.
BLOCK_SIZE = 32


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
        return Scheme(8, None, getattr(config, "kind", ""))
    block = config.block_size
    return Scheme(4, None if block in (None, -1) else block, getattr(config, "kind", ""))


class BlockConfig(keras.quantizers.Int4QuantizationConfig):
    """Blocks of 4 bits without zero points.

    Args:
        kind: `codes.Q4_0` or `codes.SYMMETRIC`.
        block_size: int. Of `Q4_0` it is 32.
    """

    def __init__(self, kind, block_size):
        super().__init__(block_size=block_size)
        self.kind = kind


class FloatConfig(keras.quantizers.Int8QuantizationConfig):
    """Floats of 8 bits, e4m3, and a scale for each column."""

    def __init__(self):
        super().__init__(activation_quantizer=None)
        self.kind = FP8


def config_of_name(mode):
    """The configuration of a mode that is no more than a name, or `None` if there is no such.

    >>> scheme_of(config_of_name("int4/64")), scheme_of(config_of_name("q4_0"))
    (Scheme(bits=4, block=64, kind=''), Scheme(bits=4, block=32, kind='q4_0'))
    """
    quantizers = keras.quantizers
    if mode == "int8":
        return quantizers.Int8QuantizationConfig(activation_quantizer=None)
    if mode == "int4":
        return quantizers.Int4QuantizationConfig(block_size=BLOCK_SIZE)
    if mode == FP8:
        return FloatConfig()
    if mode == Q4_0:
        return BlockConfig(Q4_0, 32)
    found = re.fullmatch(
        r"(int4|int4_sym)/(-1|[1-9]\d{0,5})", mode if isinstance(mode, str) else ""
    )
    if found is None or (found[1] == SYMMETRIC and found[2] == "-1"):
        return None
    size = int(found[2])
    if found[1] == SYMMETRIC:
        return BlockConfig(SYMMETRIC, size)
    return quantizers.Int4QuantizationConfig(block_size=size)
