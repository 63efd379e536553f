"""What users are told."""

import warnings

import numpy as np
import pytest

from keras_t5gemma2 import messages
from keras_t5gemma2.messages import shown


class _Long:
    def __repr__(self):
        return "z" * 1000


@pytest.mark.once
@pytest.mark.parametrize(
    "value",
    ["a" * 1000, b"\xff" * 5_000_000, [1] * 1000, {"a": "b" * 500}, 10**100, _Long(), None],
    ids=lambda value: type(value).__name__,
)
def test_values_are_shown_cut_short(value):
    assert 0 < len(shown(value)) <= 80


@pytest.mark.once
def test_integers_that_python_does_not_write_are_shown():
    assert shown(10**9999) == "<int of 33216 bits>"
    assert shown([-(10**9999)]) == "[<int of 33216 bits>]"


@pytest.mark.once
def test_arrays_are_shown_by_shape_and_dtype():
    assert shown(np.zeros((3, 5), "int32")) == "ndarray of shape (3, 5) and dtype int32"
    assert shown("cat.png") == "'cat.png'"


@pytest.mark.once
def test_a_warning_points_at_the_line_of_the_user():
    inside = compile("warn('cut')", messages.__file__, "exec")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(inside, {"warn": messages.warn})
    assert [warning.filename for warning in caught] == [__file__]
