"""The sequences of a row: where each ends, and how likely its tokens are."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.generation.label_scores import scores_of_labels
from keras_t5gemma2.model.stacks import decoder_positions
from keras_t5gemma2.sharding.batch import to_devices


class Sequence(NamedTuple):
    """New tokens of a row, with the one that ends them."""

    ids: np.ndarray  # (T,) int32
    is_finished: bool  # whether it ends by itself, and not because its budget does
    log_probs: Any = None  # (T,) float32: the model's own, whatever chose the tokens


def sequence_of(ids, stop_token_ids, rules=()):
    """The `Sequence` of new tokens, which ends where a rule says so.

    It also ends, unfinished, before a token that a rule does not allow: such a token comes only
    where no token at all was allowed.

    Args:
        ids: (T,) int32, up to the first stop token.
        stop_token_ids: tuple of ints, or `None`.
        rules: `token_automaton.Automaton`s of numpy arrays, or `TokenGrammar`s.
    """
    readers = [rule.reader() for rule in rules]
    for place, id in enumerate(ids):
        if id < 0:
            break
        ends = [reader.read(id) for reader in readers]
        if any(reader.is_lost for reader in readers):
            return Sequence(ids[:place], False)
        if any(ends):
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
    rows = rows._replace(prompts=[prompt for prompt in rows.prompts for _ in range(times)])
    new = [sequence.ids for sequence in flat]
    found, _ = scores_of_labels(generator, *states_before(generator, rows, new, memory, call), call)
    ends = np.cumsum([len(ids) for ids in new])[:-1]
    pairs = zip(flat, np.split(found, ends), strict=True)
    flat = [sequence._replace(log_probs=of_row) for sequence, of_row in pairs]
    return [flat[start : start + times] for start in range(0, len(flat), times)]


def states_before(generator, rows, sequences, memory, call):
    """The states that new tokens are predicted from, of one pass through the decoder.

    Args:
        generator: `Generator`.
        rows: `batching.Rows`.
        sequences: per row the ids that come after its prompt.
        memory: what `decoding.remember` gave; R rows in turn may share one of its rows.
        call: `calls.Call`.

    Returns:
        The (states, D) tensor of hidden states; the int32 tensor of those among them that a new
        token comes after, row by row; and these tokens, an int32 array.
    """
    arrays = batching.pad_prompts(rows, max(map(len, sequences)))
    new = arrays["new_token_ids"]
    for row, ids in zip(new, sequences, strict=True):
        row[: len(ids)] = ids
    make = lambda: _hidden_states(generator.model)  # noqa: E731
    run = program(generator, ("states of new tokens",), make, call)
    inputs = {name: x for name, x in arrays.items() if name != "new_tokens"}
    hidden = run((), to_devices(inputs), memory)
    places = np.flatnonzero(new >= 0).astype("int32")
    labels = new.reshape(-1)[places]
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
    return hidden, ops.convert_to_tensor(places), labels


def _hidden_states(model):
    """A function that gives (B, T, D) states, after which new tokens come after their prompts."""

    def run(_, inputs, memory):
        new = inputs["new_token_ids"]
        ids = ops.concatenate([inputs["decoder_token_ids"], ops.maximum(new, 0)], axis=1)
        there = ops.cast(new >= 0, inputs["decoder_padding_mask"].dtype)
        mask = ops.concatenate([inputs["decoder_padding_mask"], there], axis=1)[:, :-1]
        x = model.backbone.embed_decoder(ids[:, :-1])
        hidden, _ = model.backbone.decoder.step(x, decoder_positions(mask), memory)
        return hidden[:, -new.shape[1] :]

    return run
