"""keras-hub's samplers: their temperatures, their random states, and when two are the same."""

import contextlib
import numbers
import threading
import weakref

import keras
import keras_hub

from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.read_image import to_numpy

_DRAWING = (
    keras_hub.samplers.RandomSampler,
    keras_hub.samplers.TopKSampler,
    keras_hub.samplers.TopPSampler,
)


def check_temperature(sampler):
    """Raises where the logits cannot be divided by a sampler's temperature."""
    value = getattr(sampler, "temperature", 1.0)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not (0 <= value < float("inf")):
        raise (ValueError if is_number else TypeError)(
            "`temperature` of a sampler must be a positive number, or 0 for the likeliest token. "
            f"Received: temperature={shown(value)}"
        )


def goes_token_by_token(sampler):
    """Whether a sampler decides on one token after another, by `get_next_token` alone."""
    return type(sampler).__call__ is keras_hub.samplers.Sampler.__call__


def is_greedy(sampler):
    """Whether a sampler of keras-hub takes the likeliest token, whatever it is called."""
    if type(sampler) is keras_hub.samplers.GreedySampler:
        return True
    return getattr(sampler, "temperature", 1.0) == 0 and type(sampler) in _DRAWING


# Random states ----------------------------------------------------------------------------------

_lock = threading.RLock()
_seeds: weakref.WeakKeyDictionary = (
    weakref.WeakKeyDictionary()
)  # per sampler the seed that its random state started from
_turns: weakref.WeakKeyDictionary = (
    weakref.WeakKeyDictionary()
)  # per sampler the lock that its random state is moved under


def take_seed(sampler):
    """Starts the random state anew where `sampler.seed` was set after the state was made."""
    if not _starts_from_seed(sampler):
        return
    generator = sampler.seed_generator
    with _lock:
        earlier = _seeds.get(sampler, generator.get_config()["seed"])
        if sampler.seed != earlier:
            generator.state.assign(keras.random.SeedGenerator(sampler.seed).state)
        _seeds[sampler] = sampler.seed


def _starts_from_seed(sampler):
    generator = getattr(sampler, "seed_generator", None)
    is_generator = isinstance(generator, keras.random.SeedGenerator)
    return is_generator and "seed" in getattr(sampler, "__dict__", {})


def taking_turns(sampler):
    """A context in which no other thread draws from the random state of a sampler."""
    if not getattr(sampler, "variables", None):
        return contextlib.nullcontext()
    with _lock:
        return _turns.setdefault(sampler, threading.RLock())


# Which programs it needs -----------------------------------------------------------------------


def key_of(sampler):
    """A hashable that is equal where the same compiled programs serve, whatever the seed."""
    values = dict(getattr(sampler, "__dict__", {}))
    if _starts_from_seed(sampler):
        del values["seed"]  # which moves the random state alone: no program knows it
    return sampler, _frozen(values)


class _Same:
    """An object without a hash of its own, equal to itself only."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def _frozen(value):
    """A hashable that is equal for equal values, all the way down."""
    if isinstance(value, dict):
        return tuple((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_frozen, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(_frozen, value))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        array = to_numpy(value)
        return array.shape, str(array.dtype), array.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value
