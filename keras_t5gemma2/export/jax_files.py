"""The files of functions exported as programs of JAX."""

import functools
import sys
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.safetensors import SINGLE_FILE
from keras_t5gemma2.files.safetensors_writer import NewTensor, write_safetensors
from keras_t5gemma2.kernels.export import jax_programs
from keras_t5gemma2.kernels.runtime.dispatch import platform_at_hand
from keras_t5gemma2.kernels.runtime.platforms import PLATFORMS, named
from keras_t5gemma2.messages import shown


def write(path, functions, variables, platforms):
    """Writes a directory of a file for each function and platform, and one of weights for all.

    Args:
        path: path of the directory.
        functions: per name, a function of a dict of tensors, and a `keras.InputSpec` of each.
        variables: the `keras.Variable`s that the functions read.
        platforms: list of names, as `checked_platforms` gives it.
    """
    programs = jax_programs.programs(functions, variables, platforms)
    weights = [
        NewTensor(v.path, tuple(v.shape), np.dtype(keras.backend.standardize_dtype(v.dtype)), read)
        for v in variables
        for read in [functools.partial(ops.convert_to_numpy, v)]
    ]
    with atomic_directory(path, ("*.jax",), written_last=SINGLE_FILE) as directory:
        for (name, platform), program in programs.items():
            (directory / f"{name}.{platform}.jax").write_bytes(program)
        write_safetensors(directory, weights, max_shard_size=sys.maxsize)


def checked_platforms(platforms=None):
    """Names of platforms; the one at hand where none is given."""
    if platforms is None:
        return [platform_at_hand()]
    if isinstance(platforms, str) or not isinstance(platforms, Sequence) or not platforms:
        raise ValueError(
            f"`platforms` must be a list of names among {PLATFORMS}, and not empty. Received: "
            f"platforms={shown(platforms)}"
        )
    return list(dict.fromkeys(named(platform, "platforms") for platform in platforms))
