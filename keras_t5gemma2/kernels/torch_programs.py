"""Functions as programs of `torch.export`."""

import warnings

import torch
from keras import ops

from keras_t5gemma2.kernels.attention import use


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
    torch.export.save(program, path)


class _Module(torch.nn.Module):
    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, inputs):
        return self.function(inputs)


def _program(model, function, specs):
    inputs = {name: ops.ones(spec.shape, spec.dtype) for name, spec in specs.items()}
    with torch.no_grad(), warnings.catch_warnings(), use("reference"):
        warnings.filterwarnings("ignore", message=".*not properly registered as a submodule.*")
        return torch.export.export(_Module(model, function), (inputs,), strict=False)
