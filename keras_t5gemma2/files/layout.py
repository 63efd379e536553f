"""The order of axes in a file, and in a variable."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor of a file and the variable differ: in the order of their axes.

    Args:
        axes: tuple of ints, the file's axes in the variable's order; `None` keeps them.

    >>> Layout((2, 3, 1, 0)).to_variable_shape((5, 3, 7, 11))
    (7, 11, 3, 5)
    """

    axes: tuple | None = None

    def to_variable(self, array):
        """A view of a file's `array`, with axes as the variable has them."""
        return array if self.axes is None else array.transpose(self.axes)

    def to_variable_shape(self, shape):
        return tuple(shape) if self.axes is None else tuple(shape[axis] for axis in self.axes)

    def from_variable(self, array):
        """A view of a variable's `array`, with axes as a file has them."""
        return array if self.axes is None else array.transpose(self._file_axes(array.shape))

    def from_variable_shape(self, shape):
        """The shape in a file of a variable of shape `shape`."""
        if self.axes is None:
            return tuple(shape)
        return tuple(shape[axis] for axis in self._file_axes(shape))

    def _file_axes(self, shape):
        """Where each axis of the file is in the variable's `shape`."""
        return tuple(self.axes.index(axis) for axis in range(len(shape)))


AS_IS = Layout()
LINEAR = Layout((1, 0))  # (out, in) to (in, out)
CONVOLUTION = Layout((2, 3, 1, 0))  # (out, in, height, width) to (height, width, in, out)
