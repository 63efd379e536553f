"""How a tensor of a file becomes a variable, and back."""

import numpy as np
import pytest

from keras_t5gemma2.files.layout import AS_IS, CONVOLUTION, LINEAR, Layout

pytestmark = pytest.mark.once


@pytest.mark.parametrize("layout", [AS_IS, LINEAR, CONVOLUTION])
def test_layouts_are_invertible(layout):
    shape = (5, 3, 7, 11) if layout is not LINEAR else (5, 3)
    array = np.arange(np.prod(shape)).reshape(shape)
    variable = layout.to_variable(array)
    assert layout.from_variable_shape(variable.shape) == shape
    assert np.shares_memory(variable, array)
    np.testing.assert_array_equal(layout.from_variable(variable), array)


def test_convolution_layout():
    file = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert CONVOLUTION.to_variable(file)[4, 6, 2, 1] == file[1, 2, 4, 6]


@pytest.mark.parametrize("layout", [AS_IS, LINEAR, CONVOLUTION, Layout((1, 2, 0))])
def test_shapes_are_those_of_arrays(layout):
    shape = (5, 3, 7, 11)[: len(layout.axes or (0, 1, 2))]
    array = np.zeros(shape)
    assert layout.to_variable_shape(shape) == layout.to_variable(array).shape
    assert layout.from_variable_shape(list(shape)) == layout.from_variable(array).shape


def test_an_order_that_is_not_its_own_inverse():
    """The variable's axes are the second, the third and the first of the file."""
    layout = Layout((1, 2, 0))
    file = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    variable = layout.to_variable(file)
    assert variable.shape == (3, 5, 2) and variable[2, 4, 1] == file[1, 2, 4]
    np.testing.assert_array_equal(layout.from_variable(variable), file)
