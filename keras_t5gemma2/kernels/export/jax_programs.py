"""Functions as programs of `jax.export`, one for each platform."""

import keras

from keras_t5gemma2.kernels.runtime import platforms


def programs(functions, variables, chosen):
    """Per name of a function and platform, the serialized program.

    It takes a dict of the variables' values by their paths, and the dict of tensors that the
    function takes: one file of weights is enough for all programs.

    Args:
        functions: per name, a function of a dict of tensors, and a `keras.InputSpec` of each, of
            known sizes.
        variables: the `keras.Variable`s that the functions read.
        chosen: sequence of names of `platforms.PLATFORMS`.
    """
    return {
        (name, platform): _program(*each, variables, platform)
        for platform in chosen
        for name, each in functions.items()
    }


def _program(function, specs, variables, platform):
    import jax

    def stateless(values, inputs):
        mapping = [(variable, values[variable.path]) for variable in variables]
        # What is made for a platform as soon as it is known, and not when the program is lowered.
        with platforms.lowered_for(platform), keras.StatelessScope(state_mapping=mapping):
            return function(inputs)

    values = {v.path: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables}
    inputs = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in specs.items()}
    exported = jax.export.export(jax.jit(stateless), platforms=[platform])(values, inputs)
    return bytes(exported.serialize())
