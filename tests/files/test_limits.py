"""Sizes that no machine holds are caught before memory is taken."""

import dataclasses
import math

import numpy as np
import pytest
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.files.limits import check_size, is_number, num_parameters
from keras_t5gemma2.model.loading import shapes_only

pytestmark = pytest.mark.once


@pytest.mark.parametrize("value", [0, -3, 1.5, 1e308, np.float32(2), np.int64(3)])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 10**400, True, np.True_, "1", None, [1], {}]
)
def test_what_is_no_number(value):
    assert not is_number(value)


def test_parameters_are_those_of_all_matrices():
    """Counted of a model; what is no matrix are norms, biases and the end of an image."""
    model = shapes_only(lambda: T5Gemma2Backbone(CONFIG))
    matrices = {v.path: math.prod(v.shape) for v in model.weights if len(v.shape) > 1}
    of_vision = sum(count for path, count in matrices.items() if path.startswith("vision/"))
    assert num_parameters(CONFIG) == sum(matrices.values())
    assert num_parameters(TEXT_CONFIG) == sum(matrices.values()) - of_vision


def test_the_largest_model_is_just_small_enough():
    """1e11 parameters, of which the text stacks are the smallest that there can be."""
    width = 10_000
    stacks = {
        name: dataclasses.replace(getattr(TEXT_CONFIG, name), hidden_dim=width, mlp_dim=1)
        for name in ("encoder", "decoder")
    }
    config = dataclasses.replace(TEXT_CONFIG, vocabulary_size=1, **stacks)
    rows = (10**11 - num_parameters(config)) // width
    largest = dataclasses.replace(config, vocabulary_size=1 + rows)
    check_size(largest, "here")
    larger = dataclasses.replace(config, vocabulary_size=2 + rows)
    with pytest.raises(ValueError, match=r"more than 1e\+11 .* here, which describes 1.0e\+11"):
        check_size(larger, "here")
