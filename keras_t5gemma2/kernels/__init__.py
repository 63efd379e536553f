"""Attention and cache writes, behind one wall: only this folder may import a backend.

Axes, here and in every shape comment of the package:

    B batch    T queries    S keys (slots of a cache)    N query heads    K key heads
    G = N / K query heads per key head    H head width    D model width    V vocabulary
"""

import dataclasses
from typing import Any, NamedTuple

import keras

from keras_t5gemma2.kernels import reference


class KeyValues(NamedTuple):
    """Keys and values of some tokens, with the positions they stand at.

    A `NamedTuple` is a pytree on every backend, and passes through layers and loops untouched.
    """

    keys: Any  # (B, K, S, H)
    values: Any  # (B, K, S, H)
    positions: Any  # (B, S) int32; -1: nobody sees this token. None: everybody sees every token


@dataclasses.dataclass(frozen=True)
class Window:
    """How far a query sees: `left` positions before its own and `right` after. None: no limit.

    >>> Window.causal(3)
    Window(left=2, right=0)
    >>> Window.bidirectional(6)
    Window(left=2, right=3)
    """

    left: int | None = None
    right: int | None = None

    @classmethod
    def causal(cls, size=None):
        """The decoder's rule: `size` tokens ending with the query itself."""
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def bidirectional(cls, size=None):
        """The encoder's rule: `size` tokens around the query, an even size one more to the right.

        Source: `sliding_window_mask_function(is_causal=False)` of the reference.
        """
        return cls() if size is None else cls((size - 1) // 2, size // 2)


def attend(query, positions, parts, scale, drop=None):
    """Attention of `query` over the tokens of several parts, under one softmax.

    Args:
        query: (B, N, T, H) tensor.
        positions: (B, T) int32 tensor, the queries' positions.
        parts: list of `(KeyValues, Window)`. A token is seen where its position is not -1 and
            lies inside the part's window around the query's.
        scale: float, times the scores.
        drop: `None`, or a function that drops some of a tensor of probabilities.

    Returns:
        (B, N, T, H) tensor in the dtype of `query`; zeros where a query sees nothing.
    """
    return reference.attend(query, positions, parts, scale, drop)


def write(past, fresh, slot):
    """`past` with the tokens of `fresh` in its slots from `slot` on.

    On torch the tensors of `past` themselves are written, since a copy of a whole cache for each
    token is what makes long outputs slow; elsewhere the compiler does the same.

    Args:
        past: `KeyValues` of S slots.
        fresh: `KeyValues` of T tokens.
        slot: int or int32 scalar tensor; `slot + T` is at most S.
    """
    return KeyValues(
        _write_slots(past.keys, fresh.keys, slot, axis=2),
        _write_slots(past.values, fresh.values, slot, axis=2),
        _write_slots(past.positions, fresh.positions, slot, axis=1),
    )


if keras.config.backend() == "torch":
    from keras_t5gemma2.kernels.torch import write_slots as _write_slots
else:
    from keras_t5gemma2.kernels.reference import write_slots as _write_slots
