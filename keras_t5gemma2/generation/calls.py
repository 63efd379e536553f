"""The options of one call, which travel as an argument and never stand on the generator."""

import copy
from typing import Any, NamedTuple

from keras_t5gemma2.generation.samplers import key_of, take_seed
from keras_t5gemma2.messages import shown

CACHES = ("auto", "projected", "shared")
CACHE_DTYPES = ("auto", "int8")
HEADS = ("auto", "exact", "screened")


class Call(NamedTuple):
    """What one call of `generate`, `stream` or `encode` goes by, whatever changes meanwhile."""

    cross_attention_cache: str
    cache_dtype: str
    verbose: Any  # 0, 1 or "auto"
    sampler: Any  # a copy of the generator's, as it was when the call began, or the call's own
    processors: tuple  # functions of ids and logits
    sampler_key: Any  # hashable: equal where compiled programs of the sampler are
    best: int = 1  # sequences of a row that a beam search gives
    head: str = "exact"
    head_steps: Any = None  # list that `generate_step` adds those of its loop to, or `None`

    @property
    def cache(self):
        return self.cross_attention_cache, self.cache_dtype


def call_of(generator, cross_attention_cache=None, verbose="auto", settings=None, best=1):
    """The `Call` that begins now.

    Args:
        generator: `Generator`.
        cross_attention_cache: as the generator's attribute, which it is by default.
        verbose: 0, 1 or "auto".
        settings: `settings.Settings`, or `None`.
        best: int. Sequences of a row that a beam search gives.
    """
    cache = generator.cross_attention_cache
    if cross_attention_cache is not None:
        cache = checked_cache(cross_attention_cache)
    sampler, processors = generator.sampler, ()
    if settings is not None and settings.has_rules:
        sampler, processors = settings.sampler, settings.logits_processor
    take_seed(sampler)
    key = (*key_of(sampler), processors, best)
    options = cache, generator.cache_dtype, verbose
    return Call(*options, copy.copy(sampler), processors, key, best, generator.head)


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


def checked_head(value):
    if value not in HEADS:
        raise ValueError(f"`head` must be one of {HEADS}. Received: head={shown(value)}")
    return value
