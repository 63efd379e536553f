"""Which of Keras's ways to quantize are computed with."""

import pytest
from keras.quantizers import AbsMaxQuantizer, Int4QuantizationConfig, Int8QuantizationConfig

from keras_t5gemma2.quantization.codes import Scheme
from keras_t5gemma2.quantization.schemes import check_quantized_dtype, scheme_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        (Int8QuantizationConfig(), Scheme(8)),
        (Int8QuantizationConfig(activation_quantizer=AbsMaxQuantizer(-1)), Scheme(8)),
        (Int8QuantizationConfig(activation_quantizer=None), Scheme(8)),
        (Int4QuantizationConfig(block_size=32), Scheme(4, 32)),
        (Int4QuantizationConfig(block_size=None), Scheme(4)),
        (Int4QuantizationConfig(block_size=-1), Scheme(4)),
    ],
)
def test_schemes(config, scheme):
    assert scheme_of(config) == scheme


class Own(AbsMaxQuantizer):
    """What a user has made of Keras's quantizer."""


@pytest.mark.parametrize(
    "config",
    [
        Int8QuantizationConfig(weight_quantizer=AbsMaxQuantizer(0)),
        Int8QuantizationConfig(activation_quantizer=Own(-1)),
        Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer(-1)),
    ],
)
def test_quantizers_of_the_users_own_are_refused(config):
    with pytest.raises(ValueError, match="`config` must have no `weight_quantizer`"):
        scheme_of(config)


def test_eight_bits_are_not_for_float16():
    for mode in ("int8", "int8_from_float16"):
        with pytest.raises(ValueError, match='mode="int8" and a compute dtype of float16'):
            check_quantized_dtype(mode, "float16")
        check_quantized_dtype(mode, "bfloat16")
    check_quantized_dtype("int4/8", "float16")
