"""Beam search by the rule of transformers' `generate(num_beams=..., do_sample=False)`.

keras-hub's `BeamSampler` lets an ended beam run on past its end token and compares sums over
different lengths. Here, a beam that ends leaves the race for a pool of ended sequences.

Axes: B rows, N beams, C candidates for the next step (C >= 2N), L slots, V vocabulary.
"""

from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
from keras import ops, tree

from keras_t5gemma2.generation.loop import DecodeState, Loop, Strategy, is_any
from keras_t5gemma2.generation.samplers import check_temperature
from keras_t5gemma2.messages import shown

# Below every real score. A number, as in the reference (`_beam_search`), and not -inf: what is
# hidden must still stand above a token that the model itself forbids with a logit of -inf.
HIDDEN = -1e9


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class BeamSearch(keras_hub.samplers.BeamSampler):
    """The best of several sequences, as transformers' beam search finds it.

    Every step ranks the candidates of all beams by the sum of their log probabilities. Of the best
    `num_beams` candidates, those that end go to the pool, with that sum divided by
    `length ** length_penalty`; the best `num_beams` others run on. A length counts the generated
    tokens with the end token and without the prompt. At the last slot everything ends.
    Where candidates tie exactly, the order is that of the backend's `top_k`: on JAX and TensorFlow
    the lower beam, then the lower token id; on PyTorch it is unspecified.

    A row may have more of its prompt at `index` and after it, where `mask` is True: these tokens
    stay, cost and count nothing. A row's result does not depend on the other rows.

    Args:
        num_beams: number of beams of each row, at least 1.
        length_penalty: exponent of the length. Above 0 favors long sequences, below 0 short ones.
        early_stopping: when a row with `num_beams` ended sequences is done. `True`: at once.
            `False`: when the best running beam, ending now, would not enter the pool. `"never"`:
            when it could not enter at any length.
        return_all_beams: also give the other sequences of the pool, and the scores.
        **kwargs: `temperature`, a divisor of the logits; at 0 `generate` is greedy.

    Call arguments:
        next: function of `(prompt, cache, index)` that reads slot `index - 1` and gives
            `(logits, hidden states or None, cache)`, logits (B * N, V) for slot `index`.
        prompt: (B, L) token ids. The slots to generate hold any filler.
        cache: tree of tensors with the batch on axis 0, or `None`.
        index: the first slot to generate, an integer scalar.
        mask: (B, L) bool, True where `prompt` holds a token to keep; what a row has of it from
            `index` on begins there and has no gap. `None`: all slots from `index` on are free.
        stop_token_ids: tuple of the ids that end a sequence, or `None`.
        hidden_states: not used.
        model: the model whose variables `next` reads; JAX's loop has to know it.

    Returns:
        (B, L) token ids with the filler kept after the end token. With `return_all_beams`,
        (B, N, L) token ids, best first, and their (B, N) float32 scores.

    Raises:
        ValueError: if an argument is out of its range, or V is too small for the stop tokens.

    Example: the likeliest first token (1) does not begin the likeliest sequence.

        >>> from keras import ops
        >>> p = np.array([[1, 0, 0, 0], [0.3, 0.3, 0.2, 0.2], [0.9, 0.1, 0, 0], [0.1, 0.5, 0.4, 0]])
        >>> def next(prompt, cache, index):
        ...     return ops.log(ops.take(p + 1e-9, prompt[:, index - 1], axis=0)), None, cache
        >>> prompt = ops.array([[3, -1, -1, -1]])
        >>> best = BeamSearch(num_beams=2)(next, prompt, index=1, stop_token_ids=(0,))
        >>> ops.convert_to_numpy(best).tolist()
        [[3, 2, 0, -1]]
    """

    def __init__(
        self,
        num_beams=5,
        length_penalty=1.0,
        early_stopping=False,
        return_all_beams=False,
        **kwargs,
    ):
        if not isinstance(num_beams, int) or num_beams < 1:
            raise ValueError(
                "`num_beams` must be an integer of at least 1. Received: "
                f"num_beams={shown(num_beams)}"
            )
        if not isinstance(early_stopping, bool) and early_stopping != "never":
            raise ValueError(
                "`early_stopping` must be False, True or 'never'. Received: "
                f"early_stopping={shown(early_stopping)}"
            )
        super().__init__(num_beams=num_beams, return_all_beams=return_all_beams, **kwargs)
        check_temperature(self)
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping

    def __call__(
        self,
        next,
        prompt,
        cache=None,
        index=0,
        mask=None,
        stop_token_ids=None,
        hidden_states=None,
        model=None,
    ):
        stops = tuple(stop_token_ids or ())
        return search(self, next, prompt, cache, index, mask, stops, model)

    def get_config(self):
        return {
            **super().get_config(),
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
        }


def search(search, next, prompt, cache, index, mask, stop_token_ids, model=None, steps=None):
    """What `BeamSearch` gives when it is called.

    Args:
        search: `BeamSearch`.
        steps: int32 scalar. The most slots to generate, or `None` for all from `index` on.
        Others are those of a call.
    """

    def step(state):
        logits, _, cache = next(state.ids, state.cache, state.index)
        return logits, None, state._replace(cache=cache)

    index, limit = (ops.cast(x, "int32") for x in (index, ops.shape(prompt)[1]))
    limit = limit if steps is None else ops.minimum(limit, index + steps)
    ended = ops.zeros_like(prompt[:, 0], dtype="bool")
    cache = () if cache is None else cache  # A loop variable cannot be `None`.
    strategy = Beams(search, mask)
    state = DecodeState(prompt, index, ended, cache, broken=())
    return strategy.result(strategy.run(state, Loop(step, limit, stop_token_ids, model)))


class _Race(NamedTuple):
    """What the loop carries of beams, beside their ids and caches."""

    scores: Any  # (B, N), sums of log probabilities
    pool: Any  # `_Pool`
    improvable: Any  # (B, 1) bool: whether a beam may still come into the pool
    start: Any  # (B, 1) int32: the first slot that is generated
    given: Any  # (B, L) bool: where the prompt's tokens stay


class Beams(Strategy):
    """The strategy of `BeamSearch`: a row of the state is a beam.

    Args:
        search: `BeamSearch`.
        mask: as it has it.
    """

    is_folded = False

    def __init__(self, search, mask=None):
        self._search, self._mask, self._beams = search, mask, search.num_beams

    def begin(self, state, loop, hidden):
        rows = ops.shape(state.ids)[0]
        given = ops.zeros_like(state.ids, "bool") if self._mask is None else self._mask
        given = ops.cast(given, "bool")
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

    def pick(self, logits, state, loop):
        index, race = state.index, state.own
        given = ops.take(race.given, index, axis=1)[:, None]
        beams = _split(state.ids, self._beams)
        best = self._candidates(logits, beams, race.scores, index, loop.stop_token_ids)

        ended = best.stops | (index + 1 >= loop.limit)
        totals = best.scores / self._penalty(index + 1 - race.start)
        pool = self._finish(race.pool, best, totals, ended & ~given, race.improvable)

        beams, parents, scores = self._continue(best, beams, race.scores, given)
        kept = tree.map_structure(lambda x: _reorder(x, parents), (state.cache, state.broken))

        # Whether a running beam is judged as if it ran to the last slot.
        hopes = self._search.early_stopping == "never" and self._search.length_penalty > 0
        hoped = loop.limit if hopes else index + 1
        hope = scores[:, :1] / self._penalty(hoped - race.start)
        improvable = race.improvable & (hope > pool.worst)
        own = race._replace(scores=scores, pool=pool, improvable=improvable)
        state = state._replace(ids=_join(beams), cache=kept[0], broken=kept[1], own=own)
        return ops.take(state.ids, index, axis=1), state

    def result(self, state):
        pool = state.own.pool
        if self._search.return_all_beams:
            return pool.sequences, pool.scores
        return pool.sequences[:, 0]

    def _candidates(self, logits, beams, scores, index, stop_token_ids):
        """The best continuations by one token, best first."""
        vocabulary = logits.shape[-1]
        if vocabulary <= len(stop_token_ids):
            raise ValueError(
                "`stop_token_ids` must leave at least one token of the vocabulary that does not "
                f"stop. Received: stop_token_ids={shown(stop_token_ids)}, vocabulary size "
                f"{vocabulary}"
            )
        logits = ops.cast(logits, "float32") / self._search.temperature
        totals = _split(ops.log_softmax(logits), self._beams) + scores[..., None]
        # So many that `num_beams` of them do not stop, whatever the beams prefer.
        count = max(2, 1 + len(stop_token_ids)) * self._beams
        totals, chosen = ops.top_k(ops.reshape(totals, (-1, self._beams * vocabulary)), count)
        parents = ops.cast(chosen // vocabulary, "int32")
        tokens = ops.cast(chosen % vocabulary, beams.dtype)
        return _Candidates(
            sequences=_write(_pick(beams, parents), index, tokens),
            scores=totals,
            parents=parents,
            stops=is_any(tokens, stop_token_ids),
        )

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

    def _continue(self, best, beams, scores, given):
        """Beams, their parents and scores for the next step; with a given token, all stay."""
        kept_scores, kept = ops.top_k(ops.where(best.stops, HIDDEN, best.scores), self._beams)
        return (
            ops.where(given[..., None], beams, _pick(best.sequences, kept)),
            _pick(best.parents, kept),  # While tokens are given, a row's beams are equal.
            ops.where(given, scores, kept_scores),
        )

    def _penalty(self, length):
        """Divisor of the score of a sequence of so many generated tokens, (B, 1)."""
        # A row that is still being given its prompt has no length yet, and nothing to divide.
        length = ops.cast(ops.maximum(length, 1), "float32")
        return ops.power(length, self._search.length_penalty)


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
    scores: Any  # (B, C), sums of log probabilities
    parents: Any  # (B, C), the beam that each continues
    stops: Any  # (B, C) bool


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
