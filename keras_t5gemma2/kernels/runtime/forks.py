"""Models in processes forked from the one that made them, where backends may wait for ever."""

import os
import sys

import keras


def check_process(made_in):
    """Raises where a model is used in a process forked from the one that made it.

    Torch computes there in one thread. What only prepares data needs no backend, and works.

    Args:
        made_in: int. The id of the process that made the model.

    Raises:
        RuntimeError: the backend is JAX or TensorFlow, whose threads a fork leaves behind.
    """
    if made_in == os.getpid():
        return
    if keras.config.backend() != "torch":
        raise RuntimeError(
            "A model must be used in the process that made it, or in none that is forked from "
            f"it: {keras.config.backend()} would wait for ever. Received: a model of process "
            f"{made_in} in process {os.getpid()}. Load it in the new process, and start that "
            'with `multiprocessing.get_context("spawn")`. Preparing data, as `lm.preprocessor` '
            "does, works in both"
        )
    torch = sys.modules["torch"]
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
