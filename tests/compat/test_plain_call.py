"""Calls of layers without what Keras does around them."""

import threading

import keras
import numpy as np
import pytest

from keras_t5gemma2.compat.plain_call import PlainCall, plain_calls


class Doubles(PlainCall, keras.layers.Layer):
    """Doubles what it gets, and tells Keras of it, which plain calls do not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, inputs, times=2):
        self.seen.append(isinstance(inputs, np.ndarray))
        return inputs * times


def is_plain(layer):
    """Whether a call got the array itself, and not what Keras makes of it."""
    x = np.ones(3, "float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x, times=3)), 3 * x)
    return layer.seen[-1]


def test_inside_only_the_call_of_a_built_layer_is_run():
    layer = Doubles()
    with plain_calls():
        assert not is_plain(layer)  # which builds it
        assert is_plain(layer)
    assert not is_plain(layer)


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", True), ("mixed_bfloat16", False)])
def test_layers_whose_weights_are_cast_are_called_as_ever(dtype, expected):
    layer = Doubles(dtype=dtype)
    layer.build((3,))
    with plain_calls():
        assert is_plain(layer) is expected


def test_a_quantized_layer_runs_its_quantized_call():
    class Layer(Doubles):
        quantization_mode = "int8"

        def quantized_call(self, inputs, times=2):
            return inputs * times + 0.5

    layer = Layer()
    layer.build((3,))
    with plain_calls():
        np.testing.assert_array_equal(layer(np.ones(2)), [2.5, 2.5])


def test_the_state_of_before_comes_back():
    layer = Doubles()
    layer.build((3,))
    with plain_calls():
        with pytest.raises(KeyError), plain_calls():
            raise KeyError
        assert is_plain(layer)
    with pytest.raises(KeyError), plain_calls():
        raise KeyError
    assert not is_plain(layer)


def test_other_threads_call_as_ever():
    layer, found = Doubles(), []
    layer.build((3,))
    with plain_calls():
        thread = threading.Thread(target=lambda: found.append(is_plain(layer)))
        thread.start()
        thread.join()
        assert found == [False] and is_plain(layer)
