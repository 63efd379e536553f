"""Beam search as a strategy of the loop: a row of its state is a beam.

Axes: B rows, N beams, C candidates for the next step (C >= 2N), L slots, V vocabulary.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_t5gemma2.generation.loop import Strategy, is_any
from keras_t5gemma2.messages import shown

# Below every real score. A number, as in the reference (`_beam_search`), and not -inf: what is
# hidden must still stand above a token that the model itself forbids with a logit of -inf.
HIDDEN = -1e9


class _Race(NamedTuple):
    """What the loop carries of beams, beside their ids and caches."""

    scores: Any  # (B, N), sums of log probabilities
    pool: Any  # `_Pool`
    improvable: Any  # (B, 1) bool: whether a beam may still come into the pool
    start: Any  # (B, 1) int32: the first slot that is generated
    given: Any  # (B, L) bool: where the prompt's tokens stay; () if nowhere


class Beams(Strategy):
    """The strategy of `BeamSearch`.

    Args:
        search: `BeamSearch`.
        mask: as it has it.
        length_penalty: float32 scalar tensor; by default a number of the search.
        best: int. Sequences of a row in the result.
    """

    is_folded = False

    def __init__(self, search, mask=None, length_penalty=None, best=1):
        self._search, self._mask, self._beams = search, mask, search.num_beams
        self._best = best
        self._exponent = search.length_penalty if length_penalty is None else length_penalty

    def begin(self, state, loop, hidden):
        rows = ops.shape(state.ids)[0]
        given, start = (), ops.broadcast_to(state.index, (rows, 1))
        if self._mask is not None:
            given = ops.cast(self._mask, "bool")
            start = _first_free_slot(given, state.index)
        # All beams start equal: only the first may be continued, or they would stay equal.
        scores = ops.array([[0.0] + [HIDDEN] * (self._beams - 1)], dtype="float32")
        shape = (rows, self._beams)
        state = tree.map_structure(
            lambda x: ops.repeat(x, self._beams, axis=0) if len(x.shape) else x, state
        )
        pool = _Pool(
            sequences=_split(state.ids, self._beams),
            scores=ops.full(shape, HIDDEN, dtype="float32"),
        )
        improvable = ops.ones((rows, 1), dtype="bool")
        scores = ops.broadcast_to(scores, shape)
        return state._replace(own=_Race(scores, pool, improvable, start, given))

    def goes_on(self, state, loop):
        race = state.own
        if self._search.early_stopping is True:
            return ops.any(race.improvable) & ~ops.all(race.pool.full)
        return ops.any(race.improvable)

    def read(self, state, loop):
        # Rules change log probabilities, as in the reference.
        logits, state = super().read(state, loop)
        logits = ops.cast(logits, "float32") / self._search.temperature
        return ops.log_softmax(logits), state

    def pick(self, log_probabilities, state, loop):
        index, race = state.index, state.own
        best = self._candidates(log_probabilities, state, loop)

        ended = best.stops | (index + 1 >= loop.limit)
        totals = best.scores / self._penalty(index + 1 - race.start)
        running = self._running(best)
        if self._mask is not None:
            given = ops.take(race.given, index, axis=1)[:, None]
            ended = ended & ~given
            beams = _split(state.ids, self._beams)
            running = running.where_not(given, beams, race.scores, index)
        pool = self._finish(race.pool, best, totals, ended, race.improvable)
        ids, tokens, parents, scores = running
        kept = state.cache, state.broken, state.spelled
        cache, broken, spelled = tree.map_structure(lambda x: _reorder(x, parents), kept)

        # Whether a running beam is judged as if it ran to the last slot.
        hopes = self._search.early_stopping == "never" and self._search.length_penalty > 0
        hoped = loop.limit if hopes else index + 1
        hope = scores[:, :1] / self._penalty(hoped - race.start)
        improvable = race.improvable & (hope > pool.worst)
        own = race._replace(scores=scores, pool=pool, improvable=improvable)
        state = state._replace(ids=_join(ids), cache=cache, broken=broken, own=own, spelled=spelled)
        return _join(tokens), state

    def result(self, state):
        pool = state.own.pool
        if self._search.return_all_beams:
            return pool.sequences, pool.scores
        return _join(pool.sequences[:, : self._best])

    def broken(self, state):
        # The first beam that broke counts: those that did not are worse, or have ended before it.
        first = ops.min(_split(state.broken, self._beams), axis=1)
        return ops.repeat(first, self._best, axis=0)

    def _candidates(self, log_probabilities, state, loop):
        """The best continuations by one token, best first."""
        vocabulary, stop_token_ids = log_probabilities.shape[-1], loop.stop_token_ids
        if vocabulary <= len(stop_token_ids):
            raise ValueError(
                "`stop_token_ids` must leave at least one token of the vocabulary that does not "
                f"stop. Received: stop_token_ids={shown(stop_token_ids)}, vocabulary size "
                f"{vocabulary}"
            )
        beams = _split(state.ids, self._beams)
        totals = _split(log_probabilities, self._beams) + state.own.scores[..., None]
        # So many that `num_beams` of them do not stop, whatever the beams prefer.
        count = max(2, 1 + len(stop_token_ids)) * self._beams
        totals, chosen = ops.top_k(ops.reshape(totals, (-1, self._beams * vocabulary)), count)
        parents = ops.cast(chosen // vocabulary, "int32")
        tokens = ops.cast(chosen % vocabulary, beams.dtype)
        return _Candidates(
            sequences=_write(_pick(beams, parents), state.index, tokens),
            tokens=tokens,
            parents=parents,
            scores=totals,
            stops=self._stops(tokens, parents, state, loop),
        )

    def _stops(self, tokens, parents, state, loop):
        """(B, C) bool: which candidates end."""
        if loop.rules is None:
            return is_any(tokens, loop.stop_token_ids)
        of_parents = {
            name: _join(_pick(_split(states, self._beams), parents))
            for name, states in state.spelled.items()
        }
        spelled = loop.rules.after(of_parents, _join(tokens))
        return ops.reshape(loop.has_ended(_join(tokens), spelled), ops.shape(tokens))

    def _finish(self, pool, best, scores, ended, improvable):
        """The pool with the candidates that ended: only the best `num_beams` of them may."""
        allowed = (ops.arange(best.scores.shape[1]) < self._beams) & improvable
        if self._search.early_stopping is True:
            allowed = allowed & ~pool.full
        # Lower than an empty place of the pool, which keeps the prompt until something ends.
        scores = ops.where(ended & allowed, scores, -np.inf)
        scores, kept = ops.top_k(ops.concatenate([pool.scores, scores], axis=1), self._beams)
        sequences = ops.concatenate([pool.sequences, best.sequences], axis=1)
        return _Pool(sequences=_pick(sequences, kept), scores=scores)

    def _running(self, best):
        """The candidates that run on."""
        scores, kept = ops.top_k(ops.where(best.stops, HIDDEN, best.scores), self._beams)
        return _Running(*(_pick(x, kept) for x in best[:3]), scores)

    def _penalty(self, length):
        """Divisor of the score of a sequence of so many generated tokens, (B, 1)."""
        # A row that is still being given its prompt has no length yet, and nothing to divide.
        length = ops.cast(ops.maximum(length, 1), "float32")
        return ops.power(length, self._exponent)


class _Pool(NamedTuple):
    """The best ended sequences of each row so far, best first."""

    sequences: Any  # (B, N, L)
    scores: Any  # (B, N), HIDDEN where nothing has ended yet

    @property
    def worst(self):
        """The score to beat, (B, 1)."""
        return self.scores[:, -1:]

    @property
    def full(self):
        """Whether all N have ended, (B, 1)."""
        return self.worst > HIDDEN


class _Candidates(NamedTuple):
    """Continuations of the running beams by one token, best first."""

    sequences: Any  # (B, C, L)
    tokens: Any  # (B, C)
    parents: Any  # (B, C), the beam that each continues
    scores: Any  # (B, C), sums of log probabilities
    stops: Any  # (B, C) bool


class _Running(NamedTuple):
    """The beams of the next step."""

    sequences: Any  # (B, N, L)
    tokens: Any  # (B, N)
    parents: Any  # (B, N)
    scores: Any  # (B, N)

    def where_not(self, given, beams, scores, index):
        """These, and in rows with a given token all beams as they are: they are equal still."""
        return self._replace(
            sequences=ops.where(given[..., None], beams, self.sequences),
            tokens=ops.where(given, ops.take(beams, index, axis=2), self.tokens),
            scores=ops.where(given, scores, self.scores),
        )


def _first_free_slot(mask, index):
    """The first slot of each row that is generated, (B, 1)."""
    later = ops.arange(ops.shape(mask)[1], dtype="int32") >= index
    return index + ops.sum(ops.cast(mask & later, "int32"), axis=1, keepdims=True)


def _write(sequences, index, tokens):
    here = ops.arange(ops.shape(sequences)[-1], dtype="int32") == index
    return ops.where(here, tokens[..., None], sequences)


def _pick(x, indices):
    """Entries `indices` (B, n) of axis 1."""
    indices = ops.reshape(indices, ops.shape(indices) + (1,) * (len(x.shape) - 2))
    return ops.take_along_axis(x, indices, axis=1)


def _reorder(x, parents):
    """A cache leaf (B * N, ...) with each beam's entry replaced by its parent's."""
    rows, beams = ops.shape(parents)
    first = ops.arange(rows, dtype="int32")[:, None] * beams
    return ops.take(x, ops.reshape(first + parents, (-1,)), axis=0)


def _split(x, beams):
    return ops.reshape(x, (-1, beams, *ops.shape(x)[1:]))


def _join(x):
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))
