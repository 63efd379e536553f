"""Tokens drawn by temperature, top-k, top-p and min-p, all of which are inputs of the program.

Nothing is sorted: the least weight that is kept is found by bisection, and a token is drawn by one
random number for each row, which the host gives.
"""

from typing import NamedTuple

from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation.loop import Strategy

# Vocabularies of several pieces of this size are added up piece by piece, which vectorizes.
_PIECE = 512


class PerCall(NamedTuple):
    """Stands in the place of a sampler where the settings of a call say how to draw."""

    @property
    def variables(self):
        return ()


class Drawing(Strategy):
    """A strategy whose settings are tensors.

    Args:
        settings: dict of `temperature`, `top_p`, `min_p` (B, 1) float32 and `top_k` (B, 1) int32;
            `draws` (B, room) float32, for each new token a number from 0 to below 1. A row of
            temperature 0 gets its likeliest token.
    """

    def __init__(self, settings):
        self._settings = settings

    def pick(self, logits, state, loop):
        likeliest = ops.cast(kernels.argmax(logits), "int32")
        temperature = self._settings["temperature"]
        draws = self._settings["draws"]
        place = state.index - (state.ids.shape[1] - draws.shape[1])
        number = ops.take(draws, ops.reshape(place, (1,)), axis=1)

        def drawn():
            kept = weights(logits, self._settings)
            return ops.where(temperature[:, 0] > 0, choose(kept, number), likeliest)

        return ops.cond(ops.any(temperature > 0), drawn, lambda: likeliest), state


def weights(logits, settings):
    """(B, V) float32, in proportion to the probabilities; 0 of what is not drawn.

    Args:
        logits: (B, V) tensor.
        settings: as `Drawing` has them. What they leave is narrowed in this order.
    """
    logits = ops.cast(logits, "float32")
    temperature = ops.where(settings["temperature"] > 0, settings["temperature"], 1.0)
    logits = logits / temperature
    found = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    top_k, top_p = settings["top_k"], settings["top_p"]
    count, none = logits.shape[-1], lambda: ops.zeros_like(top_k)
    least = ops.cond(
        ops.any(top_k < count),
        lambda: least_kept(found, ops.ones_like(found), ops.cast(top_k, "float32")),
        none,
    )
    found = ops.where(_keys(found) >= least, found, 0.0)

    def least_of_mass():
        return least_kept(found, found, top_p * _sum(found))

    # At 1 everything is kept, whatever the sum is rounded to.
    least = ops.cond(ops.any(top_p < 1), least_of_mass, none)
    least = ops.where(top_p < 1, least, 0)
    return ops.where((_keys(found) >= least) & (found >= settings["min_p"]), found, 0.0)


def least_kept(found, masses, limit):
    """(B, 1) int32: the lowest of the keys above which lies less than `limit` of the masses.

    Args:
        found: (B, V) float32 from 0 to 1, the highest of each row 1.
        masses: (B, V) float32.
        limit: (B, 1) float32, above 0.
    """
    keys = _keys(found)
    high = ops.max(keys, axis=-1, keepdims=True)  # nothing lies above it
    low = ops.full_like(high, -1)

    def halve(low, high):
        middle = low + (high - low) // 2
        above = _sum(ops.where(keys > middle, masses, 0.0))
        is_low = above < limit
        return ops.where(is_low, low, middle), ops.where(is_low, middle, high)

    def goes_on(low, high):
        return ops.any(high - low > 1)

    return ops.while_loop(goes_on, halve, (low, high), maximum_iterations=31)[1]


def choose(kept, number):
    """(B,) int32 tokens, each as likely as its weight.

    Args:
        kept: (B, V) float32 weights.
        number: (B, 1) float32 from 0 to below 1.
    """
    rows, count = kept.shape
    kept = ops.pad(kept, [(0, 0), (0, -count % _PIECE)])
    pieces = ops.reshape(kept, (rows, -1, _PIECE))
    sums = ops.cumsum(ops.sum(pieces, axis=-1), axis=-1)
    target = number * sums[:, -1:]
    piece = _first_above(sums, ops.sum(pieces, axis=-1), target)
    before = ops.sum(ops.where(ops.arange(sums.shape[1]) == piece - 1, sums, 0.0), 1, keepdims=True)
    inside = ops.take_along_axis(pieces, piece[..., None], axis=1)[:, 0]
    place = _first_above(ops.cumsum(inside, axis=-1), inside, target - before)
    return ops.cast(piece * _PIECE + place, "int32")[:, 0]


def _first_above(sums, kept, target):
    """(B, 1) int32: the first place with weight whose sum is above the target, or else the last."""
    has_weight = kept > 0
    is_above = has_weight & (sums > target)
    places = ops.arange(sums.shape[1], dtype="int32")
    # Sums are rounded: where none is above, the last place with weight is meant.
    last = ops.max(ops.where(has_weight, places, 0), axis=-1, keepdims=True)
    first = ops.min(ops.where(is_above, places, sums.shape[1]), axis=-1, keepdims=True)
    return ops.minimum(first, last)


def _keys(found):
    """Numbers from 0 on as int32 in the same order."""
    return ops.view(found, "int32")


def _sum(x):
    """(B, 1) sums of (B, V)."""
    if x.shape[-1] % _PIECE == 0:
        x = ops.sum(ops.reshape(x, (x.shape[0], -1, _PIECE)), axis=1)
    return ops.sum(x, axis=-1, keepdims=True)
