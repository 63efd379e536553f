"""Values and gradients of a function of tensors, compiled where the backend compiles."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, tensors):
    """The scalar `function(*tensors)` and its gradients, as float32 arrays; `None` for none.

    Args:
        function: gives a scalar tensor.
        tensors: list of float tensors.
    """
    value, gradients = _BACKENDS[keras.config.backend()](function, tensors)
    arrays = [
        None if g is None else ops.convert_to_numpy(ops.cast(g, "float32")) for g in gradients
    ]
    return float(ops.convert_to_numpy(value)), arrays


def _jax(function, tensors):
    import jax

    return jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(tensors)))))(*tensors)


def _tensorflow(function, tensors):
    import tensorflow as tf

    @tf.function
    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return value, [g for g in tape.gradient(value, tensors)]

    return step(*tensors)


def _torch(function, tensors):
    import torch

    tensors = [tensor.detach().clone().requires_grad_(True) for tensor in tensors]
    value = function(*tensors)
    return value.detach(), torch.autograd.grad(value, tensors, allow_unused=True)


_BACKENDS = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}


def step_gradients(lm, batch):
    """Loss and gradients of one training step, by the path of the variable; weights stay.

    Args:
        lm: task, compiled with `optimizer=Gradients()`.
        batch: tuple of inputs, labels and weights.
    """
    values = [np.array(ops.convert_to_numpy(weight)) for weight in lm.trainable_weights]
    loss = lm.train_on_batch(*batch, return_dict=True)["loss"]
    gradients = {w.path: np.array(ops.convert_to_numpy(w)) for w in lm.trainable_weights}
    for weight, value in zip(lm.trainable_weights, values, strict=True):
        weight.assign(value)
    return loss, gradients


class Gradients(keras.optimizers.Optimizer):
    """Leaves its gradient in the place of each variable."""

    def __init__(self):
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient, variable, learning_rate):
        if hasattr(gradient, "indices"):  # TensorFlow's, of a table that is looked up in alone
            import tensorflow as tf

            gradient = tf.convert_to_tensor(gradient)
        self.assign(variable, ops.convert_to_tensor(gradient))


def relative_error(got, want):
    """The norm of the difference over the norm of what is wanted."""
    return np.linalg.norm(got - want) / np.linalg.norm(want)
