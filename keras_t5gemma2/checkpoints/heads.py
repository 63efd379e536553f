"""The weights of the head of a classifier or embedder in files: read and checked."""

import pathlib
from typing import NamedTuple

import numpy as np

from keras_t5gemma2.files.finite import is_finite, nonfinite_message
from keras_t5gemma2.files.h5 import checked_float, read_h5_file
from keras_t5gemma2.files.layout import AS_IS, LINEAR
from keras_t5gemma2.files.tensors import StoredTensor, list_names

# The file of a preset with all weights that are none of the backbone's.
TASK_WEIGHTS = "task.weights.h5"
# What the reference calls the weights of its heads, and how they lie there, by our paths.
REFERENCE_ROWS = {
    "head/output/kernel": ("score.out_proj.weight", LINEAR),
    "head/output/bias": ("score.out_proj.bias", AS_IS),
}
# By our paths: Keras's names of the layers of a task that have weights of their own, and the names
# of these weights in the order of Keras's file.
_LAYERS = {
    "head/hidden": ("layers/classifier_head/hidden", ("kernel", "bias")),
    "head/output": ("layers/classifier_head/output_dense", ("kernel", "bias")),
    "pooler": ("layers/pooling", ("query",)),
    "embedding_head/pooling": ("layers/embedding_head/pooling", ("query",)),
}


class ReferenceHead(NamedTuple):
    """What the reference's files say of a head.

    Args:
        architecture: string, the reference's class.
        num_classes: int.
        dropout: float.
        start_token_id: int.
        problem_type: string, "regression", "single_label_classification" or
            "multi_label_classification"; or `None`.
    """

    architecture: str
    num_classes: int
    dropout: float
    start_token_id: int
    problem_type: str | None = None

    @property
    def config(self):
        """Its part of `config.json`."""
        names = {i: f"LABEL_{i}" for i in range(self.num_classes)}
        return {
            "architectures": [self.architecture],
            "classifier_dropout_rate": self.dropout,
            "id2label": names,
            "label2id": {name: i for i, name in names.items()},
            "problem_type": self.problem_type,
        }


def own_head_tensors(directory):
    """The `StoredTensor`s of a head in a preset directory, by variable path.

    Raises:
        ValueError: it is no file of Keras's weights, or holds what no head has.
    """
    path = pathlib.Path(directory, TASK_WEIGHTS)
    if not path.is_file():
        return {}
    names = {
        f"{layer}/vars/{number}": f"{ours}/{variable}"
        for ours, (layer, variables) in _LAYERS.items()
        for number, variable in enumerate(variables)
    }
    found = read_h5_file(path)
    if unexpected := sorted(set(found) - set(names)):
        raise ValueError(
            f"{path} must hold the weights of a head. Unexpected: {list_names(unexpected)}"
        )
    return {names[name]: stored(tensor) for name, tensor in found.items()}


def stored(tensor, layout=AS_IS):
    """The `StoredTensor` of a `FileTensor` of floats."""
    checked_float(tensor)
    return StoredTensor(tensor.name, tensor.shape, tensor.read, tensor.release, layout)


def assign(
    variables,
    tensors,
    origin,
    allow_nonfinite=False,
    remedy="Give `num_classes` for a new head",
):
    """Gives variables the values of tensors, all or none.

    Args:
        variables: list of variables.
        tensors: dict of `StoredTensor` by path.
        origin: what errors call the file.
        allow_nonfinite: bool. Whether values may be NaN or infinite.
        remedy: string, how to load a task without these values.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape, or not finite.
    """
    wanted = {variable.path: variable for variable in variables}
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        raise ValueError(
            f"The head in {origin} must be that of the task. Missing: {missing}. Unexpected: "
            f"{unexpected}. {remedy}"
        )
    values = {}
    for path, variable in wanted.items():
        tensor = tensors[path]
        value = np.array(tensor.layout.to_variable(tensor.read()), "float32")
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"The tensor {tensor.name} in {origin} must have the shape {tuple(variable.shape)} "
                f"of {path}. Received: shape={value.shape}. {remedy}"
            )
        if not allow_nonfinite and not is_finite(value):
            raise ValueError(nonfinite_message(tensor.name, value, value))
        values[path] = value
    for path, variable in wanted.items():
        variable.assign(values[path])
