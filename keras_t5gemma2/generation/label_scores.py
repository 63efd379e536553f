"""How likely labels are after hidden states, whose logits are formed for a chunk at a time."""

import numpy as np
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation import batching, calls
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.kernels.runtime import processes


def scores_of_labels(generator, hidden, chosen, labels, call=None):
    """The log-probability of each label, and whether it is the first choice.

    Args:
        generator: `Generator`.
        hidden: (rows, D) tensor of hidden states.
        chosen: (N,) int32 tensor, which of them the labels come after.
        labels: (N,) int32 array.
        call: `calls.Call`, by default one that begins now.

    Returns:
        (N,) arrays of float32 and bool.
    """
    return _by_chunks(generator, "a score", _scores, call, chosen, hidden, labels)


def choices_at(generator, hidden, chosen, labels, count, call=None):
    """How likely each label is, how uncertain the choice was, and the likeliest tokens.

    Args:
        generator, hidden, chosen, labels, call: as of `scores_of_labels`.
        count: int. How many of the likeliest tokens.

    Returns:
        (N,) float32 log-probabilities of the labels and entropies, in nats; and of the likeliest
        tokens, from the first on, (N, count) log-probabilities and int32 ids.
    """

    def choices(model, hidden, labels):
        log_probs = ops.log_softmax(ops.cast(model.logits(hidden), "float32"), axis=-1)
        of_labels = ops.take_along_axis(log_probs, ops.expand_dims(labels, -1), axis=-1)[:, 0]
        # Of a token that cannot come, 0 times -inf would be NaN.
        entropy = -ops.sum(ops.exp(log_probs) * ops.maximum(log_probs, -1e30), axis=-1)
        best, ids = ops.top_k(log_probs, count)
        return of_labels, entropy, best, ops.cast(ids, "int32")

    what = f"the likeliest {count} tokens"
    return _by_chunks(generator, what, choices, call, chosen, hidden, labels)


def log_sums(generator, hidden, chosen, call=None):
    """(N,) float32 array: the logarithm of the sum of exp(logit) over the vocabulary.

    Args:
        generator, hidden, chosen, call: as of `scores_of_labels`.
    """
    return _by_chunks(generator, "the vocabulary", _log_sums, call, chosen, hidden)[0]


def log_softmaxes(generator, hidden, chosen, call=None):
    """(N, V) float32 array: the log-probability of every token of the vocabulary.

    Args:
        generator, hidden, chosen, call: as of `scores_of_labels`.
    """
    return _by_chunks(generator, "all probabilities", _log_softmaxes, call, chosen, hidden)[0]


def _log_softmaxes(model, hidden):
    return (ops.log_softmax(ops.cast(model.logits(hidden), "float32"), axis=-1),)


def _scores(model, hidden, labels):
    logits = model.logits(hidden)
    of_labels = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)[:, 0]
    is_greedy = ops.equal(ops.cast(kernels.argmax(logits), "int32"), labels)
    return of_labels - ops.logsumexp(logits, axis=-1), is_greedy


def _log_sums(model, hidden):
    return (ops.logsumexp(model.logits(hidden), axis=-1),)


def _by_chunks(generator, what, function, call, chosen, hidden, *arrays):
    """`function(model, hidden, *tensors)` of some hidden states, as a tuple of (N,) arrays."""
    model, count = generator.model, int(chosen.shape[0])
    most = max(1, kernels.CHUNK_BYTES // (4 * model.backbone.config.vocabulary_size))
    size = min(most, batching.size_of(max(1, count), smallest=32))
    call = calls.call_of(generator) if call is None else call

    def of_chunk(_, hidden, ids, *tensors):
        return function(model, ops.take(hidden, ids, axis=0), *tensors)

    run = program(generator, (what, size), lambda: of_chunk, call)
    found = []
    for start in range(0, max(1, count), size):
        part = slice(start, min(start + size, count))
        missing = size - (part.stop - part.start)
        ids = ops.pad(chosen[part], [(0, missing)])
        tensors = [ops.convert_to_tensor(np.pad(x[part], (0, missing))) for x in arrays]
        outputs = run((), hidden, ids, *tensors)
        found.append([processes.whole(x)[: size - missing] for x in outputs])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
