"""The sequences of a row: where each ends, and how likely its tokens are."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation.automaton import Reader
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.kernels import CHUNK_BYTES
from keras_t5gemma2.model.stacks import decoder_positions
from keras_t5gemma2.sharding.batch import to_devices


class Sequence(NamedTuple):
    """New tokens of a row, with the one that ends them."""

    ids: np.ndarray  # (T,) int32
    is_finished: bool  # whether it ends by itself, and not because its budget does
    log_probs: Any = None  # (T,) float32: the model's own, whatever chose the tokens


def sequence_of(ids, stop_token_ids, rules=()):
    """The `Sequence` of new tokens, which ends where a rule says so.

    Args:
        ids: (T,) int32, up to the first stop token.
        stop_token_ids: tuple of ints, or `None`.
        rules: `automaton.Automaton`s of numpy arrays.
    """
    readers = [Reader(rule) for rule in rules]
    for place, id in enumerate(ids):
        if id < 0:
            break
        if any([reader.read(id) for reader in readers]):
            return Sequence(ids[: place + 1], True)
    is_stopped = len(ids) > 0 and int(ids[-1]) in (stop_token_ids or ())
    return Sequence(ids, is_stopped or any(reader.is_complete for reader in readers))


def with_log_probs(generator, rows, sequences, memory, call):
    """The sequences with their `log_probs`, from one more pass through the decoder.

    Args:
        generator: `Generator`.
        rows: `batching.Rows`.
        sequences: per row a list of as many `Sequence`s.
        memory: what `decoding.remember` gave; R rows in turn may share one of its rows.
        call: `calls.Call`.
    """
    flat = [sequence for of_row in sequences for sequence in of_row]
    times = len(flat) // len(rows.prompts)
    prompts = [prompt for prompt in rows.prompts for _ in range(times)]
    longest = max(len(sequence.ids) for sequence in flat)
    arrays = batching.pad_prompts(rows._replace(prompts=prompts), longest)
    new = arrays["new_token_ids"]
    for row, sequence in zip(new, flat, strict=True):
        row[: len(sequence.ids)] = sequence.ids
    make = lambda: _log_probabilities(generator.model)  # noqa: E731
    run = program(generator, ("log-probabilities",), make, call)
    inputs = {name: x for name, x in arrays.items() if name != "new_tokens"}
    found = ops.convert_to_numpy(run((), to_devices(inputs), memory))
    flat = [
        sequence._replace(log_probs=of_row[: len(sequence.ids)])
        for sequence, of_row in zip(flat, found, strict=True)
    ]
    return [flat[start : start + times] for start in range(0, len(flat), times)]


def _log_probabilities(model):
    """A function that gives (B, T) float32 log probabilities of new tokens after their prompts."""

    def run(_, inputs, memory):
        new = inputs["new_token_ids"]
        ids = ops.concatenate([inputs["decoder_token_ids"], ops.maximum(new, 0)], axis=1)
        there = ops.cast(new >= 0, inputs["decoder_padding_mask"].dtype)
        mask = ops.concatenate([inputs["decoder_padding_mask"], there], axis=1)[:, :-1]
        x = model.backbone.embedder(ids[:, :-1])
        hidden, _ = model.backbone.decoder.step(x, decoder_positions(mask), memory)
        return _of_labels(model, hidden[:, -new.shape[1] :], ops.maximum(new, 0))

    return run


def _of_labels(model, hidden, labels):
    """(B, T) log probabilities of labels (B, T), whose logits are formed a chunk at a time."""
    rows, length = labels.shape
    size = max(1, CHUNK_BYTES // (4 * rows * model.backbone.config.vocabulary_size))
    size = min(size, length)
    more = -length % size
    hidden = ops.pad(hidden, [(0, 0), (0, more), (0, 0)])
    labels = ops.pad(labels, [(0, 0), (0, more)])

    def chunks(x):
        return ops.swapaxes(ops.reshape(x, (rows, -1, size, *x.shape[2:])), 0, 1)

    def of_chunk(pair):
        hidden, labels = pair
        found = ops.log_softmax(ops.cast(model.logits(hidden), "float32"), axis=-1)
        return ops.take_along_axis(found, labels[..., None], axis=-1)[..., 0]

    pairs = chunks(hidden), chunks(labels)
    if size >= length:
        return of_chunk((pairs[0][0], pairs[1][0]))
    found = ops.map(of_chunk, pairs)
    return ops.reshape(ops.swapaxes(found, 0, 1), (rows, -1))[:, :length]
