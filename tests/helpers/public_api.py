"""What is public: the functions and classes of the package, and the methods of these."""

import inspect
from typing import Any, NamedTuple

import keras_t5gemma2
from keras_t5gemma2 import distribution
from keras_t5gemma2.evaluation.evaluate import Evaluation
from keras_t5gemma2.generation.encoded import Encoded
from keras_t5gemma2.generation.generator import Generator
from keras_t5gemma2.inspection.attention import AttentionWeights
from keras_t5gemma2.inspection.probe import Probe

# Beside `__all__`: what public functions give, and the one public module.
MORE = (AttentionWeights, Encoded, Evaluation, Generator, Probe, distribution.distribute)
# Called by Python: where these are ours, their arguments are public.
_DUNDERS = ("__init__", "__call__", "__len__")


class Member(NamedTuple):
    """A method or property, as it stands in the text of the class `owner`."""

    owner: type
    name: str
    value: Any


def owners():
    """List of the public functions and classes."""
    named = [getattr(keras_t5gemma2, name) for name in keras_t5gemma2.__all__]
    return [*(value for value in named if callable(value)), *MORE]


def members():
    """Dict of the `Member`s of public classes that are ours, by `Owner.name`."""
    found = {}
    for cls in filter(inspect.isclass, owners()):
        for name in dir(cls):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            value = vars(owner)[name]
            is_public = not name.startswith("_") or name in _DUNDERS
            if is_public and is_ours(owner) and functions_of(value):
                found[f"{owner.__name__}.{name}"] = Member(owner, name, value)
    return found


def functions_of(value):
    """The plain functions behind a function, method or property: none of other attributes."""
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset) if function is not None]
    function = getattr(value, "__func__", value)  # of a static or class method
    return [inspect.unwrap(function)] if inspect.isfunction(function) else []


def is_ours(value):
    return value.__module__.partition(".")[0] == keras_t5gemma2.__name__
