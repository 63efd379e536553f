"""Gradient checkpointing: what a layer computes is computed again in the backward pass."""

import keras
from keras import ops

from keras_t5gemma2 import kernels


def recomputed(layer, function, *tensors):
    """`function(*tensors)`, of whose intermediate values none is kept for the backward pass.

    The function runs a second time there, and draws the same dropout masks: on every backend it
    gets the weights and the states of the seed generators of `layer` as values, and what it does
    to those states is done to them once, here.

    Args:
        layer: layer that has been built. The function uses its variables and no others.
        function: from `tensors` to one, or to a tuple of them. What else it uses gets no gradient.
        *tensors: float tensors.
    """
    weights = layer.trainable_variables
    fixed, seeds = [], []
    for variable in layer.non_trainable_variables:
        (seeds if variable.name == "seed_generator_state" else fixed).append(variable)
    # JAX knows variables by the innermost scope only, so those that stay are in it too.
    constants = [(variable, ops.convert_to_tensor(variable)) for variable in fixed]
    # A copy, since torch advances the state in place.
    constants += [(seed, ops.copy(ops.convert_to_tensor(seed))) for seed in seeds]

    @kernels.rematerialized
    def pure(*arguments):
        values = arguments[len(tensors) :]
        mapping = [*zip(weights, values, strict=True), *constants]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            output = function(*arguments[: len(tensors)])
        return output, [scope.get_current_value(seed) for seed in seeds]

    output, states = pure(*tensors, *(ops.convert_to_tensor(weight) for weight in weights))
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)
    return output
