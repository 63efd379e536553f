"""The head that reads a part of the table: which calls have it, and the copy that it goes by."""

import threading
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.generation.samplers import is_greedy

DTYPES = ("float32", "bfloat16")
# Tokens of the vocabulary that a call may draw from, if its head is to be screened.
MOST_DRAWN = 64
# Where a head of "auto" is screened: the copy takes the time of about 20 steps to make, and that of
# one step to tell whether it is still right.
_FEWEST_BYTES, _FEWEST_NEW_TOKENS = 64 << 20, 33
# More rows have more candidates, and products that wait less for memory: not measured.
_MOST_ROWS = 1


_of_table: set[Any] = set()  # functions


def of_table(logits):
    """Marks a method `logits` that gives the product with the embedding table, and no more."""
    _of_table.add(logits)
    return logits


class HeadSteps(NamedTuple):
    """How many steps of decoding had a screened head.

    Args:
        screened: int. All of them.
        full: int. Those among them that computed all logits after all, because there was no room
            for so many candidates, or because numbers were too large for the bounds or not finite.
    """

    screened: int
    full: int


class Head(NamedTuple):
    """What a step needs to screen the table.

    Args:
        screen: `kernels.ops.screened.Screen` of the table.
        most: int. So many of the largest logits are needed.
        counts: (B, 1) int32 tensor: so many of each row's; or `None`.
    """

    screen: Any
    most: int = 1
    counts: Any = None

    def __call__(self, model, hidden):
        """The largest logits of (..., D) outputs of the decoder, -inf for others, and the steps.

        The steps are a (2,) int32 tensor, as `HeadSteps`.
        """
        table = ops.convert_to_tensor(model.backbone.token_embedding.embeddings)
        found = kernels.screened_logits(hidden, table, self.screen, self.most, self.counts)
        is_full = ops.cast(found.is_full, "int32")
        return found.logits, ops.stack([ops.ones_like(is_full), is_full])


def head_of(screen, sampler, settings):
    """The `Head` of a sampler that `is_covered`; `None` where `screen` is none, be it `()`."""
    if not screen:
        return None
    if not isinstance(sampler, PerCall):
        return Head(screen)
    counts = ops.where(settings["temperature"] > 0, settings["top_k"], 1)
    return Head(screen, MOST_DRAWN, counts)


class Screening:
    """The copy of a generator's table, renewed when the table is another one, and what is counted.

    The copy is no variable of the model, and in no file.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._mark = self._screen = None
        self._steps = np.zeros(2, "int64")

    @property
    def steps(self):
        return HeadSteps(*self._steps.tolist())

    def count(self, steps):
        """Adds a (2,) int32 tensor, as `DecodeState.head_steps` has it."""
        steps = ops.convert_to_numpy(steps)
        with self._lock:
            self._steps = self._steps + steps

    def forget(self):
        with self._lock:
            self._mark = self._screen = None

    def inputs(self, generator, call, rows, room, settings=None):
        """What `generate_step` takes beside its other inputs to screen the table, if it is to."""
        screen = self.screen(generator, call, rows, room, settings)
        return {} if screen is None else {"screen": screen}

    def screen(self, generator, call, rows, room, settings=None):
        """The `Screen` of the table as it is now; `None` where the head is not to be screened.

        Args:
            generator: `Generator`.
            call: `calls.Call`.
            rows: int. Rows of hidden states in a step.
            room: int. New tokens of a row, rounded up.
            settings: `settings.Settings` of the call, or `None`.
        """
        if not is_possible(generator.model):
            self.forget()
            return None
        if call.head == "exact" or not is_covered(call.sampler, rows, settings):
            return None
        table = generator.model.backbone.token_embedding.embeddings
        if call.head == "auto":
            dtype = keras.backend.standardize_dtype(table.dtype)
            if not is_worthwhile(dtype, int(np.prod(table.shape)), rows, room):
                return None
        with self._lock:
            if self._screen is None or not kernels.has_mark(table.value, self._mark):
                self._screen = None  # whose memory the new one can have
                self._mark = kernels.mark_of(table.value)
                make = lambda: lambda _: kernels.screen_of(table)  # noqa: E731
                self._screen = program(generator, ("a copy of the table",), make, call)(())
            return self._screen


def is_possible(model):
    """Whether the logits of a model are the product with its table, as this can be screened."""
    if getattr(type(model), "logits", None) not in _of_table:
        return False
    table = model.backbone.token_embedding
    dtypes = {keras.backend.standardize_dtype(table.embeddings.dtype), table.compute_dtype}
    return (
        table.is_plain
        and len(dtypes) == 1
        and dtypes <= set(DTYPES)
        and kernels.is_one_cpu(table.embeddings.value)
    )


def is_covered(sampler, rows, settings):
    """Whether the bounds tell what a sampler chooses from, under the settings of a call."""
    if rows > kernels.FEW_QUERIES:
        return False
    if settings is None or not settings.has_rules:
        return is_greedy(sampler)
    if not isinstance(sampler, PerCall) or not settings.keeps_logits:
        return False
    top_k = 0 if settings.top_k is None else settings.top_k
    is_drawn = np.asarray(settings.temperature) > 0
    is_narrow = (np.asarray(top_k) > 0) & (np.asarray(top_k) <= MOST_DRAWN)
    return bool(np.all(~is_drawn | is_narrow))


def is_worthwhile(dtype, numbers, rows, room):
    """Whether a screened head is quicker: of a table of so many numbers, rows and new tokens."""
    return (
        dtype == "float32"
        and 4 * numbers >= _FEWEST_BYTES
        and room >= _FEWEST_NEW_TOKENS
        and rows <= _MOST_ROWS
    )
