"""Texts drawn from a model to learn from, and how likely a model finds them."""

from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.constraints.words import cut
from keras_t5gemma2.generation import batching, calls
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.compiled_steps import remembered
from keras_t5gemma2.generation.label_scores import log_softmaxes
from keras_t5gemma2.generation.sequences import Sequence, states_before, with_log_probs
from keras_t5gemma2.preprocessing.chat_template import turn_end
from keras_t5gemma2.preprocessing.dialogues import Dialogue, text_of


class Samples(NamedTuple):
    """Texts that a model wrote for some rows, `count` for each, one row after another."""

    rows: Any  # `batching.Rows`, each row once
    inputs: list  # per sample a string, what its row says
    texts: list  # per sample a string
    ids: list  # per sample (T,) int32, with the token that ends it
    finished: list  # per sample, whether it ended by itself
    log_probs: list  # per sample (T,) float32, of the model that wrote it

    def numbers(self):
        """Of a sample on average its tokens, and whether it ended by itself."""
        return {"length": np.mean([*map(len, self.ids)]), "finished": np.mean(self.finished)}


def draw(task, rows, count, max_new_tokens, place):
    """`Samples` drawn at temperature 1, for which each row is encoded once.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        rows: list of `preprocessing.rows.Row`.
        count: int. Samples of each row.
        max_new_tokens: int, or `None` for 256, and no more than the preprocessor's decoder takes.
        place: tuple of ints, which the samples follow from, beside the numbers of the rows.
    """
    if max_new_tokens is None:
        room = task.preprocessor.decoder_sequence_length - 1
        max_new_tokens = max(1, min(batching.NEW_TOKENS, room))
    sequences = [np.random.SeedSequence((*place, row.number)) for row in rows]
    seeds = [int(sequence.generate_state(1)[0]) for sequence in sequences]
    end, stops = "", "auto"
    if isinstance(rows[0].encoder_text, Dialogue):
        end, stops = turn_end(task.preprocessor)
    found = task.generator.generate(
        rows,
        stop_token_ids=stops,
        strip_prompt=True,
        max_new_tokens=max_new_tokens,
        num_return_sequences=count,
        batch_size=len(rows),
        verbose=0,
        temperature=1.0,
        seed=seeds,
        return_scores=True,
    )
    encoded, _ = inputs_of.rows_of(task, rows)
    texts = [cut(text, (end,)) if end else text for text in found.texts]
    inputs = [said for row in rows for said in [_said_by(row)] * count]
    return Samples(encoded, inputs, texts, found.token_ids, found.finished, found.log_probs)


def _said_by(row):
    if isinstance(row.encoder_text, Dialogue):
        return text_of(row.encoder_text.messages[-1]["content"])
    return row.encoder_text or ""


def log_probs_of(task, samples):
    """Per sample (T,) float32, how likely a task finds its tokens.

    Args:
        task: `T5Gemma2Seq2SeqLM` of the vocabulary of the one that wrote them.
        samples: `Samples`.
    """
    generator = task.generator
    call = calls.call_of(generator, verbose=0)
    memory = remembered(generator, samples.rows, call)
    times = len(samples.ids) // len(samples.rows.prompts)
    sequences = [Sequence(ids, True) for ids in samples.ids]
    groups = [sequences[start : start + times] for start in range(0, len(sequences), times)]
    found = with_log_probs(generator, samples.rows, groups, memory, call)
    return [sequence.log_probs for of_row in found for sequence in of_row]


def log_softmaxes_of(task, samples):
    """(tokens, V) float32, how likely a task finds any token in the place of each of the samples'.

    Args:
        task, samples: as of `log_probs_of`.
    """
    generator = task.generator
    call = calls.call_of(generator, verbose=0)
    memory = remembered(generator, samples.rows, call)
    times = len(samples.ids) // len(samples.rows.prompts)
    prompts = [prompt for prompt in samples.rows.prompts for _ in range(times)]
    rows = samples.rows._replace(prompts=prompts)
    hidden, chosen, _ = states_before(generator, rows, samples.ids, memory, call)
    return log_softmaxes(generator, hidden, chosen, call)


def arrays_of(samples):
    """What a training step takes of `Samples`: each row of the encoder once.

    Returns:
        A dict of arrays, the encoder's of (rows, ...), and the decoder's and `labels` of (samples,
        length); a label is -1 where there is none.
    """
    times = len(samples.ids) // len(samples.rows.prompts)
    prompts = [prompt for prompt in samples.rows.prompts for _ in range(times)]
    return {**batching.pad_encoder(samples.rows), **batching.pad_targets(prompts, samples.ids)}


def at_labels(labels, values):
    """(samples, length) float32 with a value at each label that there is, and 0 elsewhere.

    Args:
        labels: as `arrays_of` gives them.
        values: per sample (T,) floats.
    """
    found = np.zeros(labels.shape, "float32")
    found[labels >= 0] = np.concatenate(values)
    return found
