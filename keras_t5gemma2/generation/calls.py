"""The options of one call, which travel as an argument and never stand on the generator."""

import contextlib
import copy
import threading
import weakref
from typing import Any, NamedTuple

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.read_image import to_numpy

CACHES = ("auto", "projected", "shared")
CACHE_DTYPES = ("auto", "int8")


class Call(NamedTuple):
    """What one call of `generate`, `stream` or `encode` goes by, whatever changes meanwhile."""

    cross_attention_cache: str
    cache_dtype: str
    verbose: Any  # 0, 1 or "auto"
    sampler: Any  # a copy of the generator's, as it was when the call began
    sampler_key: Any  # hashable: equal where compiled programs of the sampler are

    @property
    def cache(self):
        return self.cross_attention_cache, self.cache_dtype


def call_of(generator, cross_attention_cache=None, verbose="auto"):
    """The `Call` that begins now.

    Args:
        generator: `Generator`.
        cross_attention_cache: as the generator's attribute, which it is by default.
        verbose: 0, 1 or "auto".
    """
    cache = generator.cross_attention_cache
    if cross_attention_cache is not None:
        cache = checked_cache(cross_attention_cache)
    sampler = generator.sampler
    take_seed(sampler)
    values = dict(getattr(sampler, "__dict__", {}))
    if _starts_from_seed(sampler):
        del values["seed"]  # which moves the random state alone: no program knows it
    key = sampler, _frozen(values)
    return Call(cache, generator.cache_dtype, verbose, copy.copy(sampler), key)


def checked_cache(value):
    if value not in CACHES:
        raise ValueError(
            f"`cross_attention_cache` must be one of {CACHES}. Received: "
            f"cross_attention_cache={shown(value)}"
        )
    return value


def checked_cache_dtype(value):
    if value not in CACHE_DTYPES:
        raise ValueError(
            f"`cache_dtype` must be one of {CACHE_DTYPES}. Received: cache_dtype={shown(value)}"
        )
    return value


# Samplers ---------------------------------------------------------------------------------------

_lock = threading.RLock()
_seeds = weakref.WeakKeyDictionary()  # per sampler the seed that its random state started from
_turns = weakref.WeakKeyDictionary()  # per sampler the lock that its random state is moved under


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


def taking_turns(call):
    """A context in which no other thread draws from the random state of the call's sampler."""
    sampler, _ = call.sampler_key
    if not getattr(sampler, "variables", None):
        return contextlib.nullcontext()
    with _lock:
        return _turns.setdefault(sampler, threading.RLock())


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
