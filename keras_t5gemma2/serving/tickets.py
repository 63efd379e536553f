"""What a request asks for, made ready for a batch: a `Ticket` for each text to write."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.generator import sequences_of_beams
from keras_t5gemma2.generation.settings import DRAW, OF_ROWS, settings_of
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning

_SETTINGS = (*OF_ROWS, "seed", "stop", "constraint")


class TooLongError(ValueError):
    """The input has more tokens than the model is to read. Nothing is cut here."""


@dataclasses.dataclass(eq=False)
class Ticket:
    """One text that waits to be written, or is being written.

    Attributes:
        rows: `batching.Rows` of one row.
        key: bytes, equal for equal inputs of the encoder.
        budget: int. New tokens, at most.
        numbers: dict of the settings of `settings.OF_ROWS`.
        draws: (budget,) float32, for each new token the number that it is drawn by.
        stops: tuple of ids that end the text.
        rules: `token_automaton.Automaton`s and `TokenGrammar`s that may end it.
        constraint: the one of them that says which tokens are allowed, or `None`.
        constraint_key: hashable, equal for equal constraints.
        alternatives: int, how many likeliest tokens are wanted beside each new one; or `None`
            where no probabilities are.
        deliver: function of a list of `Token`s, of `End`, or of an exception, which the thread of
            the engine calls; it must return at once.
        is_cancelled: bool. Whether nobody waits any more.
        has_ended: bool. Whether its end, or an exception, was delivered.
    """

    rows: Any
    key: bytes
    budget: int
    numbers: dict[str, Any]
    draws: np.ndarray
    stops: tuple[int, ...] = ()
    rules: tuple[Any, ...] = ()
    constraint: Any = None
    constraint_key: Any = None
    alternatives: int | None = None
    deliver: Callable[[Any], None] = lambda event: None
    is_cancelled: bool = False
    has_ended: bool = False

    @property
    def prompt(self):
        """(length,) ids that the decoder begins with."""
        return self.rows.prompts[0]

    @property
    def tokens_read(self):
        """Tokens of the encoder's input and of the prompt behind the start token."""
        return len(self.rows.encoder_ids[0]) + len(self.prompt) - 1

    @property
    def shape(self):
        """Hashable: equal where rows can be encoded in one batch."""
        width = batching.size_of(len(self.rows.encoder_ids[0]), smallest=64)
        return width, tuple((name, x.shape) for name, x in sorted(self.rows.seen.items()))

    def end(self, event):
        """Delivers the `End` or the exception that is the last event of the text."""
        if not self.has_ended:
            self.has_ended = True
            self.deliver(event)


@dataclasses.dataclass(frozen=True)
class Token:
    """A new token, with its log-probability and those of the likeliest where they are wanted."""

    id: int
    log_prob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class End:
    """The end of a text: by itself, or because its budget is spent."""

    is_finished: bool


def tickets_of(
    lm,
    inputs,
    number=0,
    count=1,
    max_new_tokens=None,
    stop_token_ids="auto",
    alternatives=None,
    **settings,
):
    """The `Ticket`s of one row: what `lm.generate` would write for it.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        inputs: what `generate` takes for one row.
        number: int. The number of the row in its request, which draws follow from.
        count: int, as `num_return_sequences` of `generate`.
        max_new_tokens: int or `None`, as `generate` has it.
        stop_token_ids: as `generate` has it.
        alternatives: int or `None`, as `Ticket` has it.
        **settings: of `generate`, those of `settings.OF_ROWS` and `seed`, `stop` and `constraint`.

    Returns:
        A list of `count` tickets.

    Raises:
        TooLongError: the encoder's text has more tokens than fit.
        ValueError, TypeError: as of `generate`.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> (ticket,) = tickets_of(lm, "Spell 7 in Dutch.", max_new_tokens=8)
    >>> ticket.tokens_read, ticket.budget, ticket.numbers["temperature"]
    (7, 8, 0.0)
    """
    if all(settings.get(name) is None for name in DRAW):
        settings["temperature"] = 0.0
    stops = inputs_of.stop_token_ids(lm, stop_token_ids)
    chosen = settings_of(lm.generator, settings, stops, "generate", _SETTINGS)
    sequences_of_beams(chosen, lm.generator.sampler, count)
    read, _ = inputs_of.read(lm, inputs, None)
    rows = rows_of(lm, read)
    (budget,) = inputs_of.budgets(lm, read, rows, None, max_new_tokens)
    arrays = chosen.arrays([number], count, [budget] * count, budget)
    constraint = settings.get("constraint")
    of_constraint = None
    if constraint is not None:
        of_constraint = (constraint.key, getattr(constraint, "steer", None), stops)
    key = _key_of(rows)
    return [
        Ticket(
            rows=rows,
            key=key,
            budget=budget,
            numbers={name: arrays[name][n, 0].item() for name in OF_ROWS},
            draws=arrays["draws"][n],
            stops=tuple(stops or ()),
            rules=tuple(chosen.rules),
            constraint=chosen.constraint,
            constraint_key=of_constraint,
            alternatives=alternatives,
        )
        for n in range(count)
    ]


def rows_of(lm, read):
    """`batching.Rows` of what `inputs.read` gave, nothing of which is cut.

    Args:
        lm: a task with a preprocessor.
        read: list of `Row`.

    Raises:
        TooLongError: a text has more tokens than fit.
    """
    cuts = Cuts()
    with one_warning(cuts, says=False):
        rows, _ = inputs_of.rows_of(lm, read)
    if cuts.found:
        cut = next(iter(cuts.found.values()))
        raise TooLongError(
            f"The input must have at most {cut.limit} tokens. Received: {cut.tokens}. Shorten it"
        )
    return rows


def _key_of(rows):
    ids = rows.encoder_ids[0], rows.encoder_masks[0]
    found = hashlib.blake2b(digest_size=16)
    for array in (*ids, *(x for _, x in sorted(rows.seen.items()))):
        array = np.ascontiguousarray(array)
        found.update(f"{array.shape} {array.dtype} ".encode() + array.tobytes())
    return found.digest()


def encoded_rows(tickets, size):
    """`batching.Rows` of tickets of one `shape`, of which the last one fills `size` rows up."""
    tickets = [*tickets, *itertools.repeat(tickets[-1], size - len(tickets))]
    rows = [ticket.rows for ticket in tickets]
    seen = {name: np.concatenate([row.seen[name] for row in rows]) for name in rows[0].seen}
    lists = ([x for row in rows for x in row[n]] for n in range(3))
    return batching.Rows(*lists, seen)
