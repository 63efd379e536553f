"""Windows against written-out matrices, and keys and values as tensors."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention.reference import seen as sees


def seen(window, length=7):
    positions = ops.arange(length, dtype="int32")[None]
    return ops.convert_to_numpy(sees(positions, positions, window))[0].astype(int)


def test_causal_window_of_three():
    assert seen(Window.causal(3)).tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1],
    ]


def test_bidirectional_window_of_four_sees_one_more_to_the_right():
    assert seen(Window.bidirectional(4)).tolist() == [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_bidirectional_window_of_three():
    assert seen(Window.bidirectional(3), 4).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
    ]


def test_no_window():
    assert seen(Window.causal()).tolist() == np.tril(np.ones((7, 7), int)).tolist()
    assert seen(Window.bidirectional()).all()


@pytest.mark.once
def test_a_window_of_one_token_is_the_query_itself():
    assert Window.causal(1) == Window.bidirectional(1) == Window(0, 0)
    assert seen(Window.causal(1), 3).tolist() == np.eye(3, dtype=int).tolist()


@pytest.mark.once
def test_a_window_is_restored_from_its_fields():
    for window in (Window(), Window.causal(), Window.causal(5), Window.bidirectional(4)):
        assert Window.from_dict(dataclasses.asdict(window)) == window


@pytest.mark.once
def test_plain_has_tensors_and_keeps_positions(rng):
    keys, values = (
        ops.convert_to_tensor(rng.normal(size=(1, 2, 3, 4)).astype("float32")) for _ in range(2)
    )
    positions = ops.arange(3, dtype="int32")[None]
    mixed = KeyValues(kernels.rounded(keys), values, positions)
    plain = mixed.plain("float16")
    assert keras.backend.standardize_dtype(plain.keys.dtype) == "float16"
    assert plain.values is values and plain.positions is positions
    np.testing.assert_allclose(
        ops.convert_to_numpy(plain.keys), ops.convert_to_numpy(keys), atol=0.03
    )
