"""Functions as programs of `torch.export`."""

import warnings

from keras import ops

from keras_t5gemma2.kernels.attention.dispatch import use


def programs(model, functions):
    """Per name, the `torch.export.ExportedProgram` of a function.

    Args:
        model: the `keras.Model` that has the variables.
        functions: per name, a function of a dict of tensors, and a `keras.InputSpec` of each, of
            known sizes.
    """
    return {name: _program(model, *each) for name, each in functions.items()}


def save(program, path):
    """Writes a file that `torch.export.load` reads."""
    import torch

    torch.export.save(program, path)


def _program(model, function, specs):
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            return function(inputs)

    inputs = {name: ops.ones(spec.shape, spec.dtype) for name, spec in specs.items()}
    with torch.no_grad(), warnings.catch_warnings(), use("reference"):
        warnings.filterwarnings("ignore", message=".*not properly registered as a submodule.*")
        return torch.export.export(Module(), (inputs,), strict=False)
