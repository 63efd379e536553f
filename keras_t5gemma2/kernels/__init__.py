"""Attention, cache writes and the loss, behind one wall: only this folder may import a backend.

Axes, here and in every shape comment of the package:

    B batch    T queries    S keys (slots of a cache)    N query heads    K key heads
    G = N / K query heads per key head    H head width    D model width    V vocabulary
"""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_t5gemma2.kernels import reference

# The logits of one chunk of tokens in float32: 160 tokens of the published vocabulary. One or two
# arrays of this size live at once, less than a tenth of what the plain loss takes for 2,048 tokens,
# and a step takes no longer; smaller chunks make slower products (`tools/benchmark_loss.py`).
_CHUNK_BYTES = 160 << 20


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


class TokenSums(NamedTuple):
    """Sums over tokens, each times its weight; scalars of float32."""

    loss: Any  # the cross-entropy, in nats
    correct: Any  # 1 where the highest logit is the label's
    weight: Any  # 1


def linear_cross_entropy(
    hidden, table, labels, weights, soft_cap=None, training=True, chunk_size=None
):
    """The loss of the logits `hidden` times `table`, which are never formed all at once.

    Logits are formed for a chunk of tokens at a time. Where a gradient will be asked for, the
    same pass makes it: the backward pass only scales what was kept. Hidden states and logits
    of float16 and bfloat16 are float32 from the softmax on.

    Args:
        hidden: (..., D) tensor.
        table: (V, D) tensor or `keras.Variable`. If it is a variable that is not trainable, no
            gradient of its size is made.
        labels: (...) int tensor of ids; those of weight 0 may be any number.
        weights: (...) float tensor. Labels and weights get no gradient.
        soft_cap: float or `None`. Logits are bent to `soft_cap * tanh(logits / soft_cap)`.
        training: bool. Whether a gradient will be asked for.
        chunk_size: int. Tokens per chunk; by default those whose logits take 160 MiB.

    Returns:
        `TokenSums`.
    """
    is_trainable = getattr(table, "trainable", True)
    table = ops.convert_to_tensor(table)
    hidden = ops.reshape(hidden, (-1, table.shape[1]))
    labels, weights = _labels_and_weights(labels, weights)
    limit = chunk_size or max(1, _CHUNK_BYTES // (4 * table.shape[0]))
    loss, correct = _sums(
        hidden, table, labels, weights, soft_cap, limit, (training, training and is_trainable)
    )
    return TokenSums(loss, correct, ops.sum(weights))


def cross_entropy(logits, labels, weights):
    """The same of logits (..., V) that are there already: `TokenSums`."""
    logits = ops.reshape(logits, (-1, logits.shape[-1]))
    labels, weights = _labels_and_weights(labels, weights)
    loss, correct = reference.cross_entropy(logits, labels, weights)
    return TokenSums(loss, correct, ops.sum(weights))


def _labels_and_weights(labels, weights):
    """Both as (N,) tensors; a label without weight is 0, whatever it was."""
    weights = ops.reshape(ops.cast(weights, "float32"), (-1,))
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    return ops.where(ops.equal(weights, 0.0), 0, labels), weights


def _sums_of_padded(hidden, table, labels, weights, soft_cap, limit, wanted):
    """The sums over chunks of one size: tokens without weight fill the last one up."""
    count = ops.shape(hidden)[0]
    chunks = (count + limit - 1) // limit
    # The smallest size that gives as many chunks: hardly any token is filler.
    size = (count + chunks - 1) // chunks
    missing = chunks * size - count
    hidden = ops.pad(hidden, [(0, missing), (0, 0)])
    labels, weights = (ops.pad(x, [(0, missing)]) for x in (labels, weights))
    return _sums_over_chunks(hidden, table, labels, weights, soft_cap, size, wanted)


if keras.config.backend() == "torch":
    from keras_t5gemma2.kernels.torch import sums_over_chunks as _sums
    from keras_t5gemma2.kernels.torch import write_slots as _write_slots
else:
    from keras_t5gemma2.kernels.reference import write_slots as _write_slots

    _sums = _sums_of_padded
    if keras.config.backend() == "jax":
        from keras_t5gemma2.kernels.jax import sums_over_chunks as _sums_over_chunks
    else:
        from keras_t5gemma2.kernels.tensorflow import sums_over_chunks as _sums_over_chunks
