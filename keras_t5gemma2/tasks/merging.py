"""Several fine-tuned models made one, weight by weight, from their files."""

import os
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

import keras
import numpy as np

from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.sources import is_of_gemma
from keras_t5gemma2.files.finite import is_finite
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.merging import METHODS, NEED_BASE, ties
from keras_t5gemma2.options import number
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.task import T5Gemma2Task
from keras_t5gemma2.typing import DType, PathLike


def merge_models(
    models: Sequence[PathLike],
    path: PathLike | None = None,
    method: Literal["linear", "slerp", "task_arithmetic", "ties"] = "linear",
    weights: Sequence[float] | None = None,
    base: PathLike | None = None,
    density: float = 0.2,
    task: Any = T5Gemma2Seq2SeqLM,
    dtype: DType | None = None,
) -> Any:
    """Merges models that were fine-tuned from one, into a model as large as one of them.

    One model is loaded, the first. Of the others one weight at a time is read from its file, so
    that beside the model there are never more than a few copies of its largest weight.

    - "linear": the mean of the weights, each model by its part of `weights`.
    - "slerp": of each weight a point on the arc between two directions, which keeps its length;
      of more models one after another. With `base`, of what was learned since.
    - "task_arithmetic": `base` and the sum of what each has learned since, times its `weights`,
      which need not add up to 1. Weights below 0 forget.
    - "ties": `base` and what they have learned, where it is among the `density` of numbers that
      changed most, and only what goes the way that most of it goes.

    Args:
        models: list of at least two presets, directories or handles as `from_preset` takes them:
            of one config and vocabulary, in floats, without adapters.
        path: path of a directory that the preset of the merged model is saved to, or `None`.
        method: string, as above.
        weights: list of a number for each model; by default all alike. Those of "linear" and
            "slerp" are at least 0, and are divided by their sum.
        base: preset that the models were fine-tuned from; "task_arithmetic" and "ties" need it.
        density: float, above 0 and at most 1; of "ties".
        task: class of the task. Of a classifier the heads are merged too, so that the average of
            reward models is one of them.
        dtype: as `from_preset` has it.

    Returns:
        The merged model, a task of the first one's preprocessor.

    Raises:
        ValueError, TypeError: an argument is not as it should be, or the models do not fit
            together; the message names the model.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.save_to_preset(directory / "a")
    >>> merged = keras_t5gemma2.merge_models([directory / "a", "t5gemma2_tiny"], method="slerp")
    >>> merged.compile(sampler="greedy")
    >>> merged.generate("Spell 42 in German.", max_new_tokens=16)
    'zweiundvierzig'
    """
    _check_task(task)
    if not (path is None or isinstance(path, (str, os.PathLike))):
        raise TypeError(f"`path` must be that of a directory. Received: path={shown(path)}")
    function, shares = _checked(models, method, weights, base, density)
    sources = [_source(model, number) for number, model in enumerate(models)]
    of_base = None if base is None else _source(base, "base")
    of_all = [*enumerate(sources), *([("base", of_base)] if of_base else [])]
    for name, other in of_all:
        _check_alike(sources[0], other, name)
    _check_vocabularies(task.preprocessor_cls.tokenizer_cls, of_all)
    tensors = [_tensors(source) for source in sources]
    base_tensors = None if of_base is None else _tensors(of_base)
    lm = task.from_preset(models[0], dtype=dtype)
    for variable in lm.weights:
        name = variable.path
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        values = [_read(of_model, name, variable, n) for n, of_model in enumerate(tensors)]
        start = None if base_tensors is None else _read(base_tensors, name, variable, "base")
        variable.assign(_float32(function(values, shares, start), name, weights))
    # By its terms, what is made of Gemma derives from it.
    of_gemma = [source.source for source in sources if is_of_gemma(source.source)]
    if of_gemma and not is_of_gemma(lm.backbone.source):
        lm.backbone.source = of_gemma[0]
    if path is not None:
        lm.save_to_preset(path)
    return lm


def _check_task(task):
    if not (isinstance(task, type) and issubclass(task, T5Gemma2Task)):
        raise TypeError(
            "`task` must be the class of a task, such as `T5Gemma2TextClassifier`. Received: "
            f"task={shown(task)}"
        )


def _checked(models, method, weights, base, density):
    """A function of values, shares and the base's value; and the shares."""
    if isinstance(models, (str, bytes)) or not isinstance(models, (list, tuple)):
        raise TypeError(f"`models` must be a list of presets. Received: models={shown(models)}")
    if len(models) < 2:
        raise ValueError(f"`models` must be at least two presets. Received: models={shown(models)}")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"`method` must be one of {tuple(METHODS)}. Received: method={shown(method)}"
        )
    if method in NEED_BASE and base is None:
        raise ValueError(
            f"`method={shown(method)}` needs `base`, the model that the others were fine-tuned "
            "from. Received: base=None"
        )
    if method == "linear" and base is not None:
        raise ValueError(
            '`base` changes nothing of `method="linear"`. Received: '
            f"base={shown(base)}. Leave it out"
        )
    found = number(density)
    if found is None or not 0 < found <= 1:
        raise ValueError(
            f"`density` must be above 0 and at most 1. Received: density={shown(density)}"
        )
    shares = _shares(weights, len(models), method)
    if method == "ties":
        return lambda values, shares, start: ties(values, shares, start, found), shares
    return METHODS[method], shares


def _shares(weights, count, method):
    is_list = isinstance(weights, (list, tuple, np.ndarray))
    given = weights if is_list and np.ndim(weights) == 1 else ()
    shares = [1.0] * count if weights is None else [*map(number, given)]
    if len(shares) != count or None in shares or not np.isfinite(shares).all():
        raise ValueError(
            f"`weights` must be a list of a finite number for each of {count} models. Received: "
            f"weights={shown(weights)}"
        )
    if method == "task_arithmetic":
        return shares
    if min(shares) < 0 or sum(shares) == 0:
        raise ValueError(
            f"`weights` must be at least 0, and one of them above, for method={shown(method)}. "
            f"Received: weights={shown(weights)}"
        )
    shares = [share / max(shares) for share in shares]  # a sum of the largest floats is infinite
    return [share / sum(shares) for share in shares]


def _source(model, name):
    """The `Checkpoint` of a preset whose weights can be averaged."""
    checkpoint, _ = formats.open_checkpoint(model)
    if checkpoint is None:
        raise ValueError(
            f"Model {name} must be a preset or directory that this package reads itself. Received: "
            f"{shown(model)}. Load it, and save it with `save_to_preset`"
        )
    if formats.adapter_files(checkpoint.path) is not None:
        raise ValueError(
            f"Model {name} must have no adapters beside its weights. Received: {shown(model)}. "
            "Call `merge_adapter`, `save_to_preset`, and merge what is saved"
        )
    if checkpoint.settings.get("quantized_layers"):
        raise ValueError(
            f"Model {name} must have weights of floats. Received: {shown(model)}, which is "
            "quantized. Merge first, and quantize what comes of it"
        )
    return checkpoint


def _check_alike(first, other, name):
    if other.config != first.config:
        wanted, found = (_fields(model.config.to_dict()) for model in (first, other))
        field = next(f for f in (*wanted, *found) if wanted.get(f) != found.get(f))
        raise ValueError(
            f"All models must have one config. Received: model {name}, {shown(str(other.path))}, "
            f"whose {field} is {shown(found.get(field))}, and not {shown(wanted.get(field))} as in "
            f"{shown(str(first.path))}"
        )


def _fields(values, place=""):
    """Dict of the numbers in nested dicts and lists, by their places."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for key, value in pairs:
        here = f"{place}.{key}" if place else str(key)
        found |= _fields(value, here) if isinstance(value, (dict, list)) else {here: value}
    return found


def _check_vocabularies(cls, of_all):
    """Raises where a row of a table means another token in another model."""
    # Without a tokenizer nobody can tell.
    of_all = [(name, source) for name, source in of_all if source.has_tokenizer]
    if len(of_all) < 2:
        return
    (_, source), *others = of_all
    first = _vocabulary(cls, source)
    for name, other in others:
        tokens = _vocabulary(cls, other)
        if first == tokens:
            continue
        pairs = enumerate(zip_longest(tokens, first))
        token_id, pair = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        found, wanted = ("none" if token is None else shown(token) for token in pair)
        raise ValueError(
            f"All models must have one vocabulary. Received: model {name}, "
            f"{shown(str(other.path))}, whose token {token_id} is {found}, and not {wanted} as in "
            f"{shown(str(source.path))}"
        )


def _vocabulary(cls, checkpoint):
    return cls.from_preset(checkpoint.path).get_vocabulary()


def _tensors(checkpoint):
    return {**checkpoint.tensors(), **checkpoint.head_tensors()}


def _float32(values, name, weights):
    if np.abs(values).max(initial=0) > np.finfo("float32").max:
        raise ValueError(
            f"`weights` must be so small that float32 holds what is merged. Received: {name} of "
            f"larger numbers, by weights={shown(weights)}"
        )
    return values.astype("float32")


def _read(tensors, name, variable, model):
    """Float64 values of a weight, with axes as the variable has them."""
    tensor = tensors.get(name)
    shape = None if tensor is None else tensor.layout.to_variable_shape(tensor.shape)
    if shape != tuple(variable.shape):
        raise ValueError(
            f"All models must have the weight {name} of shape {tuple(variable.shape)}. Received: "
            f"{'none' if shape is None else shape} in model {model}"
        )
    values = np.array(tensor.layout.to_variable(tensor.read()), "float64")
    tensor.release()
    if not is_finite(values):
        raise ValueError(
            f"All weights must be finite. Received: {name} of model {model} with NaN or infinity"
        )
    return values
