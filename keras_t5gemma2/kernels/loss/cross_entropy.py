"""The loss of logits, which are formed for a chunk of tokens at a time."""

import importlib
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_t5gemma2.kernels.loss import reference
from keras_t5gemma2.kernels.runtime.dispatch import IS_COMPILED
from keras_t5gemma2.sharding.batch import data_axis

_backend = importlib.import_module(f"keras_t5gemma2.kernels.loss.{keras.config.backend()}")


# The logits of one chunk of tokens in float32: 160 tokens of the published vocabulary. One or two
# arrays of this size live at once, less than a tenth of what the plain loss takes for 2,048 tokens,
# and a step takes no longer; smaller chunks make slower products (`tools/benchmark/loss.py`).
CHUNK_BYTES = 160 << 20


class TokenSums(NamedTuple):
    """Sums over tokens, each times its weight; scalars of float32."""

    loss: Any  # the cross-entropy, in nats
    correct: Any  # 1 where the highest logit is the label's
    weight: Any  # 1


class SoftTargets(NamedTuple):
    """A distribution over a few ids for each token, used in place of its label.

    An id may occur twice: its shares add up. Neither field gets a gradient.
    """

    ids: Any  # (..., few) int32
    shares: Any  # (..., few) float32, which add up to 1


def linear_cross_entropy(
    hidden,
    table,
    labels,
    weights,
    soft_cap=None,
    training=True,
    chunk_size=None,
    targets=None,
    trainable=None,
):
    """The loss of the logits `hidden` times `table`, formed for a chunk of tokens at a time.

    With `training`, the same pass computes the gradients, which the backward pass only scales.
    In half precision, everything from the softmax on is float32.

    Args:
        hidden: (..., D) tensor.
        table: (V, D) tensor or `keras.Variable`. If it is a variable that is not trainable, no
            gradient of its size is made.
        labels: (...) int tensor of ids; those of weight 0 may be any number.
        weights: (...) float tensor. Labels and weights get no gradient.
        soft_cap: float or `None`. Logits are bent to `soft_cap * tanh(logits / soft_cap)`.
        training: bool. Whether a gradient will be asked for.
        chunk_size: int. Tokens per chunk, and per device that rows are spread over; by default
            those whose logits take 160 MiB.
        targets: `SoftTargets` of the tokens, or `None`. The loss is that of these distributions;
            `correct` still compares with the labels.
        trainable: bool. Whether the table gets a gradient; by default as a variable says itself,
            and a tensor does.

    Returns:
        `TokenSums`.
    """
    is_trainable = getattr(table, "trainable", True) if trainable is None else trainable
    table = ops.convert_to_tensor(table)
    hidden = ops.reshape(hidden, (-1, table.shape[1]))
    labels, weights = _labels_and_weights(labels, weights)
    axis = data_axis()
    shards = 1 if axis is None else axis[2]  # of a chunk, each on a device of its own
    limit = shards * (chunk_size or max(1, CHUNK_BYTES // (4 * table.shape[0])))
    targets = () if targets is None else _flat(targets)
    wanted = (training, training and is_trainable)
    sums = _sums_of_padded if IS_COMPILED else _backend.sums_over_chunks
    loss, correct = sums(hidden, table, labels, weights, targets, soft_cap, limit, wanted)
    return TokenSums(loss, correct, ops.sum(weights))


def cross_entropy(logits, labels, weights, targets=None):
    """`TokenSums` of logits (..., V)."""
    logits = ops.reshape(logits, (-1, logits.shape[-1]))
    labels, weights = _labels_and_weights(labels, weights)
    targets = () if targets is None else _flat(targets)
    loss, correct = reference.cross_entropy(logits, labels, weights, targets)
    return TokenSums(loss, correct, ops.sum(weights))


def _labels_and_weights(labels, weights):
    """Both as (N,) tensors; a label without weight is 0, whatever it was."""
    weights = ops.reshape(ops.cast(weights, "float32"), (-1,))
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    return ops.where(ops.equal(weights, 0.0), 0, labels), weights


def _flat(targets):
    """`SoftTargets` of (N, few)."""
    ids, shares = (ops.reshape(x, (-1, x.shape[-1])) for x in targets)
    return SoftTargets(ops.cast(ids, "int32"), ops.cast(shares, "float32"))


def _sums_of_padded(hidden, table, labels, weights, targets, soft_cap, limit, wanted):
    """The sums over chunks of equal size: the last one is filled up with tokens of weight 0."""
    count = ops.shape(hidden)[0]
    chunks = _at_least_one((count + limit - 1) // limit)
    # The smallest size that gives as many chunks: hardly any token is filler.
    size = _at_least_one((count + chunks - 1) // chunks)
    axis = data_axis()
    if axis is not None:
        size += -size % axis[2]
    missing = chunks * size - count
    hidden = ops.pad(hidden, [(0, missing), (0, 0)])
    labels, weights = (ops.pad(x, [(0, missing)]) for x in (labels, weights))
    targets = tuple(ops.pad(x, [(0, missing), (0, 0)]) for x in targets)
    return _backend.sums_over_chunks(
        hidden, table, labels, weights, targets, soft_cap, size, wanted
    )


def _at_least_one(count):
    """At least one chunk: a replica of a strategy may have no row of a batch."""
    return max(count, 1) if isinstance(count, int) else ops.maximum(count, 1)
