"""The rows of a batch, dealt out to devices."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.sharding.layouts import axis_sizes


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
    """Dict of tensors of `arrays`, spread over the devices by rows where these can be divided.

    Where several processes have devices, each has all rows: each is asked for the same, and reads
    what comes of them.
    """
    return keras.tree.map_structure(_to_devices, arrays)


def _to_devices(array):
    distribution, shape = keras.distribution.distribution(), np.shape(array)
    tensor = ops.convert_to_tensor(array)
    if distribution is None or not shape:
        return tensor
    if processes.is_joint():
        layout = keras.distribution.TensorLayout([None] * len(shape), distribution.device_mesh)
    elif shape[0] % row_parts():
        return tensor
    else:
        layout = distribution.get_data_layout(shape)
    return keras.distribution.distribute_tensor(tensor, layout)


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
