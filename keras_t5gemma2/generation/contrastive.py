"""Contrastive search as a strategy: likely tokens whose states are unlike those before."""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_t5gemma2.generation.loop import Strategy


class _Ahead(NamedTuple):
    """What is known of the next token before it is asked for."""

    logits: Any  # (B, V)
    hidden: Any  # (B, L, D), of the tokens so far


class Contrastive(Strategy):
    """Of the k likeliest tokens, the one with the best sum of probability and dissimilarity.

    The model reads all k of them, so that the logits after the chosen one are there already.

    Args:
        sampler: `keras_hub.samplers.ContrastiveSampler`.
    """

    is_folded = False
    keeps_states = True

    def __init__(self, sampler):
        self._sampler, self.variables = sampler, sampler.variables

    def begin(self, state, loop, hidden):
        logits, _, state = loop.step(state)
        return state._replace(own=_Ahead(logits, hidden))

    def read(self, state, loop):
        return state.own.logits, state

    def pick(self, logits, state, loop):
        k, alpha = self._sampler.k, self._sampler.alpha
        probabilities = self._sampler.compute_probabilities(logits)
        likeliest, candidates = ops.top_k(probabilities, k=k, sorted=False)
        likeliest, candidates = (ops.reshape(x, (-1,)) for x in (likeliest, candidates))
        candidates = ops.cast(candidates, state.ids.dtype)

        # Each candidate, read in its own copy of the row.
        copied = tree.map_structure(
            lambda x: ops.repeat(x, k, axis=0),
            (state.ids, state.cache, state.broken, state.own.hidden),
        )
        ids, cache, broken, earlier = copied
        ids = ops.slice_update(ids, [0, state.index], candidates[:, None])
        logits, hidden, after = loop.step(
            state._replace(ids=ids, index=state.index + 1, cache=cache, broken=broken)
        )
        similarity = self._sampler.similarity(earlier, hidden)
        # -1, the lowest similarity, where there is no token yet.
        is_token = ops.arange(ids.shape[1], dtype="int32")[None] < state.index
        similarity = ops.max(ops.where(is_token, similarity, -1), axis=1)
        similarity = ops.cast(similarity, likeliest.dtype)
        scores = ops.reshape((1 - alpha) * likeliest - alpha * similarity, (-1, k))
        best = ops.argmax(scores, axis=1)

        found = candidates, after.cache, after.broken, logits, hidden
        found = tree.map_structure(lambda x: _pick(x, best, k), found)
        chosen, cache, broken, logits, hidden = found
        earlier = ops.slice_update(state.own.hidden, [0, state.index, 0], hidden[:, None, :])
        own = _Ahead(logits, earlier)
        return chosen, state._replace(cache=cache, broken=broken, own=own)


def _pick(x, best, k):
    """Of the k entries of each row (B * k, ...), the one of that number (B,)."""
    x = ops.reshape(x, (-1, k, *x.shape[1:]))
    best = ops.reshape(best, (-1,) + (1,) * (len(x.shape) - 1))
    return ops.squeeze(ops.take_along_axis(x, best, axis=1), axis=1)
