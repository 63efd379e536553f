"""What functions of a user's own say of texts, and how much better each text was than its group."""

import numpy as np

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.options import number


def checked_functions(rewards):
    """A tuple of reward functions.

    Args:
        rewards: a function, or a list or tuple of at least one.

    Raises:
        TypeError, ValueError: it is neither.
    """
    functions = (rewards,) if callable(rewards) else rewards
    if not isinstance(functions, (list, tuple)) or not all(map(callable, functions)):
        raise TypeError(
            "`rewards` must be a list of functions f(inputs, outputs), two lists of strings, that "
            f"give a number for each output. Received: rewards={shown(rewards)}"
        )
    if not functions:
        raise ValueError("`rewards` must hold at least one function. Received: rewards=[]")
    return tuple(functions)


def names_of(functions):
    """A name for each function, for logs; those that share one are numbered."""
    names = [getattr(f, "__name__", type(f).__name__).strip("<>") for f in functions]
    return [
        name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)
    ]


def rewards_of(functions, inputs, outputs):
    """(functions, samples) float64 array of what each function says of each sample.

    Args:
        functions: tuple of functions.
        inputs: list of strings, the input of each sample.
        outputs: list of as many strings, the samples.

    Raises:
        TypeError, ValueError: a function gives anything else than a finite number for each.
    """
    found = np.empty((len(functions), len(outputs)))
    for place, (name, function) in enumerate(zip(names_of(functions), functions, strict=True)):
        # Lists of their own: a function may change them.
        given = function(list(inputs), list(outputs))
        found[place] = _numbers(name, given, len(outputs))
    return found


def _numbers(name, given, count):
    rule = f"The reward function {shown(name)} must give a finite number for each of {count} texts"
    try:
        values = [*np.asarray(given).tolist()] if hasattr(given, "shape") else [*given]
    except TypeError as error:
        raise TypeError(f"{rule}. Received: {shown(given)}. {cause(error)}") from None
    if len(values) != count:
        raise ValueError(f"{rule}. Received: {len(values)} values. Give one for each output")
    for sample, value in enumerate(values):
        value = float(value) if isinstance(value, (bool, np.bool_)) else number(value)
        if value is None:
            raise TypeError(f"{rule}. Received for text {sample}: {shown(values[sample])}")
        if not np.isfinite(value):
            raise ValueError(
                f"{rule}. Received for text {sample}: {value}. Give 0, say, where there is none"
            )
        values[sample] = float(value)
    return values


def relative_rewards(rewards):
    """How much better each sample was than the mean of its group, in standard deviations: GRPO's.

    Zeros for a group whose samples were all equally good. (Shao et al. 2024, arXiv 2402.03300.)

    Args:
        rewards: (groups, samples) floats.

    >>> relative_rewards(np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])).tolist()
    [[1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    deviation = rewards.std(axis=1, keepdims=True)
    # Of equal numbers the mean may differ in the last bit.
    is_flat = np.ptp(rewards, axis=1, keepdims=True) == 0
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return np.where(is_flat, 0.0, centred / np.where(is_flat, 1.0, deviation))


def left_out_rewards(rewards):
    """How much better each sample was than the mean of the others of its group: RLOO's.

    (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740.)

    Args:
        rewards: (groups, samples) floats, at least two samples.

    >>> left_out_rewards(np.array([[1.0, 0.0, 0.0, 1.0]])).round(3).tolist()
    [[0.667, -0.667, -0.667, 0.667]]
    """
    count = rewards.shape[1]
    return (rewards - rewards.mean(axis=1, keepdims=True)) * (count / (count - 1))


def best_alone(rewards):
    """The number of samples for the first of the best of each group, and 0 for the others.

    Args:
        rewards: (groups, samples) floats.

    >>> best_alone(np.array([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])).tolist()
    [[0.0, 3.0, 0.0], [3.0, 0.0, 0.0]]
    """
    count = rewards.shape[1]
    return count * np.eye(count)[rewards.argmax(axis=1)]
