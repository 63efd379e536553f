"""Where tensors go under a distribution of Keras's: variables, rows of a batch, tokens of a row.

Without a distribution every function here does nothing.
"""

import contextlib
import re

import keras

from keras_t5gemma2.compat import keras as compat

_ATTENTION = re.compile(
    r"(encoder|decoder)/layer_([0-9]+)/(?:cross_)?attention/(query|key|value|output)/"
)
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
