"""Where tensors go under a distribution of Keras's: variables, rows of a batch, tokens of a row.

Without a distribution every function here does nothing.
"""

import contextlib
import dataclasses
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat import keras as compat

# What a map of layouts calls the encoder's (rows, tokens, width), where there is a single row.
SEQUENCE = "encoder/sequence"

_ATTENTION = re.compile(r"(encoder|decoder)/layer_([0-9]+)/attention/(query|key|value|output)/")
_TOWER_ATTENTION = re.compile(r"vision/tower/layer_[0-9]+/(query|key|value|output)/")


# Layouts that fit ------------------------------------------------------------------------------


@contextlib.contextmanager
def fitting(config):
    """Inside, variables are made with the layouts of their paths as far as their sizes allow.

    An axis that its part of the mesh does not divide is left whole, and so are heads: none is cut.

    Args:
        config: `BackboneConfig` of the model that is being built.
    """
    if not is_model_parallel():
        yield
        return
    given = keras.distribution.distribution()
    with _choosing(lambda variable: fitted(given.get_variable_layout(variable), variable, config)):
        yield


def lay_out(variables, config):
    """Gives their layouts to variables that wait for their values: as `fitting` has them."""
    if not is_model_parallel():
        return
    given = keras.distribution.distribution()
    for variable in variables:
        if not compat.has_value(variable) and compat.layout(variable) is None:
            wanted = given.get_variable_layout(variable)
            compat.set_layout(variable, fitted(wanted, variable, config))


@contextlib.contextmanager
def following(kernel):
    """Inside, a layer makes variables that are laid out as its kernel is, (in, out).

    These are low-rank adapters beside it, (in, rank) and (rank, out), a quantized kernel in its
    place, and what it has one of for each output.
    """
    layout = compat.layout(kernel)
    if not is_model_parallel() or not hasattr(layout, "axes"):
        yield
        return
    (inputs, outputs), (axis_in, axis_out) = kernel.shape, layout.axes

    def choose(variable):
        shape = tuple(variable.shape)
        if len(shape) == 1:
            axes = (axis_out,) if shape[0] == outputs else (None,)
        elif len(shape) == 2 and shape[0] == inputs:
            axes = (axis_in, axis_out if shape[1] in (outputs, (outputs + 1) // 2) else None)
        elif len(shape) == 2:
            axes = (None, axis_out if shape[1] == outputs else None)
        else:
            axes = (None,) * len(shape)
        wanted = keras.distribution.TensorLayout(axes, layout.device_mesh)
        return fitted(wanted, variable)

    with _choosing(choose):
        yield


def is_model_parallel():
    """Whether variables have layouts."""
    # Only JAX lets it be set to anything that does something.
    return isinstance(
        keras.distribution.distribution(), (keras.distribution.ModelParallel, _Choosing)
    )


class _Choosing:
    """A distribution as it is, but for the layouts of variables, which a function chooses."""

    def __init__(self, given, choose):
        self._given, self.get_variable_layout = given, choose

    def __getattr__(self, name):
        return getattr(self._given, name)


@contextlib.contextmanager
def _choosing(choose):
    given = keras.distribution.distribution()
    keras.distribution.set_distribution(_Choosing(given, choose))
    try:
        yield
    finally:
        keras.distribution.set_distribution(given)


def fitted(layout, variable, config=None):
    """`layout` with `None` on those axes of the variable that cannot be divided."""
    axes = layout.axes
    if len(axes) != len(variable.shape):  # a quantized kernel's scales, say, in another form
        axes = (None,) * len(variable.shape)
    where, heads = (None, None) if config is None else _heads(variable.path, config)
    if where is not None:
        where %= len(axes)
    sizes = axis_sizes(layout.device_mesh)
    axes = [
        axis
        if axis is None or (size % sizes[axis] == 0 and (i != where or heads % sizes[axis] == 0))
        else None
        for i, (axis, size) in enumerate(zip(axes, variable.shape, strict=True))
    ]
    return keras.distribution.TensorLayout(axes, layout.device_mesh)


def _heads(path, config):
    """Which axis of the variable at `path` holds heads, and how many; or `None` for both."""
    if found := _ATTENTION.search(path):
        stack, layer, name = found.groups()
        attention = getattr(config, stack).layers[int(layer)]
        heads = attention.num_kv_heads if name in ("key", "value") else attention.num_heads
    elif config.vision and (found := _TOWER_ATTENTION.search(path)):
        name, heads = found[1], config.vision.num_heads
    else:
        return None, None
    return (0 if name == "output" else -1), heads


def axis_sizes(device_mesh):
    """Dict from the names of the mesh's axes to how many devices each has."""
    return dict(zip(device_mesh.axis_names, device_mesh.shape, strict=True))


# Rows of a batch -------------------------------------------------------------------------------


def row_parts():
    """How many parts the rows of a batch are divided into, of this process: 1 for no division."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    parts = axis_sizes(distribution.device_mesh)[distribution.batch_dim_name]
    return max(1, parts // distribution.num_processes)


def data_axis():
    """The mesh, the name of the axis that rows are spread over, and its size; or `None`."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None
    name = distribution.batch_dim_name
    size = axis_sizes(distribution.device_mesh)[name]
    return (distribution.device_mesh, name, size) if size > 1 else None


def to_devices(arrays):
    """Dict of tensors of `arrays`, spread over the devices by rows where these can be divided."""
    return keras.tree.map_structure(_to_devices, arrays)


def _to_devices(array):
    distribution, shape = keras.distribution.distribution(), np.shape(array)
    if distribution is None or not shape or shape[0] % row_parts():
        return ops.convert_to_tensor(array)
    layout = distribution.get_data_layout(shape)
    return keras.distribution.distribute_tensor(ops.convert_to_tensor(array), layout)


def with_rows(tree, count):
    """Arrays of `count` rows: what is missing is copies of the last one."""

    def fill(array):
        missing = count - len(array)
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array

    return keras.tree.map_structure(lambda x: None if x is None else fill(x), tree)


def of_rows(function, inputs):
    """`function(inputs)` of a tree of arrays whose rows Keras spreads, however many they are."""
    rows, parts = len(keras.tree.flatten(inputs)[0]), row_parts()
    if rows % parts == 0:
        return function(inputs)
    inputs = keras.tree.map_structure(ops.convert_to_numpy, inputs)
    outputs = function(with_rows(inputs, rows + -rows % parts))
    return keras.tree.map_structure(lambda x: x[:rows], outputs)


def shares_single_rows():
    """Whether a batch of one row can be given to all devices together."""
    return getattr(keras.distribution.distribution(), "shares_single_rows", False)


# Tokens of a single row ------------------------------------------------------------------------


def token_shards(shape):
    """`TokenShards` of the encoder's tensor of (rows, tokens, width), or `None`.

    Tokens are spread where there is one row and the map of layouts says so.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or shape[0] != 1 or shape[1] is None:
        return None
    layout = distribution.get_tensor_layout(SEQUENCE)
    if layout is None or axis_sizes(layout.device_mesh)[layout.axes[1]] == 1:
        return None
    return TokenShards(layout.device_mesh, layout.axes[1], shape[1])


@dataclasses.dataclass(frozen=True)
class TokenShards:
    """How the tokens of a single row are spread over the devices of an axis.

    The part of each device is a row: what is computed token by token needs to know nothing of it.

    Args:
        device_mesh: `keras.distribution.DeviceMesh`.
        axis: string, the name of its axis.
        length: int. Tokens of the whole row.
    """

    device_mesh: Any
    axis: str
    length: int

    @property
    def count(self):
        return axis_sizes(self.device_mesh)[self.axis]

    def split(self, x, filler=0):
        """(1, S, ...) to (parts, tokens of a part, ...), filled up at the end of the last part."""
        width = [(0, 0)] * len(x.shape)
        width[1] = (0, -self.length % self.count)
        x = ops.pad(x, width, constant_values=filler) if any(width[1]) else x
        x = ops.reshape(x, (self.count, x.shape[1] // self.count, *x.shape[2:]))
        return self._laid_out(x, 0)

    def join(self, x):
        """The inverse of `split`, spread as it was."""
        x = ops.reshape(x, (1, -1, *x.shape[2:]))
        return self._laid_out(x[:, : self.length], 1 if self.length % self.count == 0 else None)

    def whole(self, tokens):
        """`KeyValues` of (1, K, S, H) of those of the parts, for every device to have."""
        keys, values, positions = tokens

        def of_one_row(x):
            x = ops.swapaxes(x, 0, 1)
            return ops.reshape(x, (1, x.shape[0], -1, x.shape[3]))

        return type(tokens)(of_one_row(keys), of_one_row(values), ops.reshape(positions, (1, -1)))

    def _laid_out(self, x, axis):
        axes = tuple(self.axis if i == axis else None for i in range(len(x.shape)))
        layout = keras.distribution.TensorLayout(axes, self.device_mesh)
        return keras.distribution.distribute_tensor(x, layout)
