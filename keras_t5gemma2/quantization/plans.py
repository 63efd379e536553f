"""Which layers are built with integers from the start: what loading a model needs.

A layer that is built inside `planned` asks for its policy, by its path. So a model comes to be
whose float weights never were.
"""

import contextlib
import contextvars
import re
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_t5gemma2.quantization.codes import FP8

# The names of the variables of a quantized layer, in the order of Keras's files; `{}` is the name
# of its matrix. What a layer does not have is not in its file.
_SAVED = {
    "int8": ("{}", "bias", "{}_scale"),
    "fp8": ("{}", "bias", "{}_scale"),
    "int4": ("{}", "bias", "{}_scale", "{}_zero", "g_idx"),
    "gptq": ("bias", "{}", "{}_scale", "{}_zero", "g_idx"),
    "awq": ("bias", "{}", "{}_scale", "{}_zero", "awq_scales", "g_idx"),
}
_SIZE = r"(-1|[1-9]\d{0,6})"
_MODES = re.compile(f"int8|fp8|int4/{_SIZE}|gptq/[2348]/{_SIZE}|awq/4/{_SIZE}")


class Plan(NamedTuple):
    """Which layers get which kind of integers.

    Args:
        mode_of: function from a layer that is being built to what comes before `_from_` in the
            name of its dtype policy, such as "int4/128", or "fp8", or `None`.
        rounds_activations: bool. Whether layers of 8 bits round their inputs to 8 bits too.
    """

    mode_of: Callable
    rounds_activations: bool = False


_plan = contextvars.ContextVar("plan", default=None)


@contextlib.contextmanager
def planned(plan):
    """Inside, layers are built by this `Plan`; `None` changes nothing."""
    token = _plan.set(_plan.get() if plan is None else plan)
    try:
        yield
    finally:
        _plan.reset(token)


def is_planned():
    """Whether a plan is in effect."""
    return _plan.get() is not None


def planned_mode(layer):
    """The mode of a layer that is being built, or `None`."""
    plan = _plan.get()
    return None if plan is None else plan.mode_of(layer)


def rounds_activations():
    """Whether the plan says so; without one, no."""
    plan = _plan.get()
    return plan is not None and plan.rounds_activations


def plan_of_modes(modes, rounds_activations=False):
    """The `Plan` of a dict of modes by the paths of layers, `None` of an empty one."""
    return Plan(lambda layer: modes.get(layer.path), rounds_activations) if modes else None


def mode_of(layer):
    """What the policy of a quantized layer has before `_from_` in its name, or "fp8"."""
    if layer.stores_floats:
        return FP8
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        policy = policy[layer.path]
    mode = policy.get_config()["mode"]
    return "int4/-1" if mode == "int4" else mode


def is_mode(mode):
    """Whether a value from a file is a mode that layers of this package can have."""
    return isinstance(mode, str) and _MODES.fullmatch(mode) is not None


def saved_variables(mode, matrix, has_bias):
    """Names and integer types, `None` for floats, of a layer's variables in the order of files.

    >>> saved_variables("int8", "kernel", has_bias=False)
    {'kernel': 'int8', 'kernel_scale': None}
    """
    kind = mode.partition("/")[0]
    integers = "uint8" if kind in ("gptq", "awq") else "int8"
    lacking = set() if has_bias else {"bias"}
    if mode == "int4/-1":
        lacking |= {"{}_zero", "g_idx"}
    found = {}
    for name in _SAVED[kind]:
        if name not in lacking:
            is_integer = name in ("{}", "{}_zero")
            found[name.format(matrix)] = integers if is_integer else None
    return found
