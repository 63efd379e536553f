"""Gradients by the variables of a model, as each backend computes them."""

import keras
import numpy as np
from keras import ops


def gradients_by_variables(variables, function):
    """Float32 arrays, zeros where the scalar `function()` does not depend on a variable.

    Args:
        variables: list of `keras.Variable`.
        function: without arguments, gives a scalar tensor.
    """
    found = _BACKENDS[keras.config.backend()](variables, function)
    return [
        np.zeros(v.shape, "float32") if g is None else np.array(ops.convert_to_numpy(g))
        for v, g in zip(variables, found, strict=True)
    ]


def _jax(variables, function):
    import jax

    def of_values(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function()

    return jax.grad(of_values)([variable.value for variable in variables])


def _tensorflow(variables, function):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = function()
    found = tape.gradient(value, [variable.value for variable in variables])
    return [None if g is None else tf.convert_to_tensor(g) for g in found]


def _torch(variables, function):
    import torch

    tensors = [variable.value for variable in variables]
    return torch.autograd.grad(function(), tensors, allow_unused=True)


_BACKENDS = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
