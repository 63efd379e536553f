"""Functions as ONNX models, made of programs of `torch.export`."""

from keras_t5gemma2.kernels.export import torch_programs


def check_installed():
    """Raises an `ImportError` where a library that torch's exporter needs is missing."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'`format="onnx"` needs onnx and onnxscript. Missing: {error.name}. Install the extra: '
            'pip install "keras-t5gemma2[onnx]"'
        ) from error


def programs(model, functions):
    """Per name, the `torch.onnx.ONNXProgram` of a function, its inputs and outputs by their names.

    No two values of ONNX have one name: "new_" goes before that of an output which an input has.

    Args:
        model: the `keras.Model` that has the variables.
        functions: as `torch_programs.programs` has them.
    """
    names = {}

    def recording(name, function):
        def run(inputs):
            outputs = function(inputs)
            names[name] = list(outputs)
            return outputs

        return run

    recorded = {n: (recording(n, function), specs) for n, (function, specs) in functions.items()}
    exported = torch_programs.programs(model, recorded)
    return {
        name: _converted(program, list(functions[name][1]), names[name])
        for name, program in exported.items()
    }


def save(program, path):
    """Writes a file; weights that do not fit into one go to another beside it, `NAME.data`."""
    program.save(path)


def _converted(program, inputs, outputs):
    import torch

    outputs = [f"new_{name}" if name in inputs else name for name in outputs]
    found = torch.onnx.export(
        program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
    )
    _with_long_indices(found.model.graph)
    return found


def _with_long_indices(graph):
    """Casts indices to int64: torch 2.13 writes those of `index_copy_` as they are, in int32.

    The operator's definition, and with it every runtime, takes int64 alone.
    """
    from onnxscript import ir

    for node in list(graph):
        if node.op_type != "ScatterND" or node.inputs[1].dtype == ir.DataType.INT64:
            continue
        cast = ir.node("Cast", [node.inputs[1]], {"to": ir.DataType.INT64.value})
        graph.insert_before(node, cast)
        node.replace_input_with(1, cast.outputs[0])
