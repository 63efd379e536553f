"""Functions as TensorFlow writes them, for TensorFlow and LiteRT; from JAX by way of jax2tf."""

import pathlib
import tempfile

import keras


def write_saved_model(path, functions, variables, resources=()):
    """Writes a SavedModel into an empty directory.

    Args:
        path: path of the directory.
        functions: per name, a function of a dict of tensors, and a `keras.InputSpec` of each.
        variables: the `keras.Variable`s that the functions read.
        resources: what else of TensorFlow they read, such as tables.
    """
    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    if keras.config.backend() == "tensorflow":
        for name, (function, specs) in functions.items():
            archive.add_endpoint(name, function, [specs])
    else:
        for name, function in _from_jax(functions, variables).items():
            archive.add_endpoint(name, function)
    archive.write_out(str(path), verbose=False)


def _from_jax(functions, variables):
    """Per name a `tf.function`; all of them share one copy of the variables."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    # Keras's own way to convert writes variables that are not trained back after every call.
    copies = [tf.Variable(variable.numpy(), trainable=False) for variable in variables]

    def converted(function, specs):
        def stateless(values, inputs):
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return function(inputs)

        shapes = {name: _symbolic(spec.shape) for name, spec in specs.items()}
        convert = jax2tf.convert(stateless, polymorphic_shapes=[None, shapes], with_gradient=False)

        def call(inputs):
            return convert(copies, inputs)

        signature = {n: tf.TensorSpec(s.shape, s.dtype, name=n) for n, s in specs.items()}
        graph = tf.function(call, input_signature=[signature], autograph=False)
        graph.get_concrete_function()
        return graph

    return {name: converted(*each) for name, each in functions.items()}


def _symbolic(shape):
    """`(batch, 3)`, say, of `(None, 3)`: the one size that may be open is that of the batch."""
    return f"({', '.join('batch' if size is None else str(size) for size in shape)})"


def write_litert(path, functions, variables, options):
    """Writes a LiteRT file with one signature for each function.

    Args:
        path: path of the file.
        functions, variables: as `write_saved_model` has them.
        options: dict of attributes of TensorFlow's converter.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as directory:
        write_saved_model(directory, functions, variables)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(functions)
        )
        for name, value in options.items():
            setattr(converter, name, value)
        pathlib.Path(path).write_bytes(converter.convert())
