"""How likely texts are after an input, where several texts come after the same one."""

import collections
import sys
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.generation import batching, calls, finite
from keras_t5gemma2.generation.compiled_steps import remembered
from keras_t5gemma2.generation.label_scores import scores_of_labels
from keras_t5gemma2.generation.sequences import states_before
from keras_t5gemma2.sharding.batch import row_parts


class Continuation(NamedTuple):
    """A text that the decoder may write after an input."""

    context: str
    images: tuple[Any, ...]  # of the context
    token_ids: Any  # list of ints, of the text alone: no start or end token


def score_continuations(lm, continuations, batch_size):
    """The log-probability of each text, and whether the model would choose each of its tokens.

    An input is encoded once for all of its texts. No end token is added: what counts is that the
    model begins with the text.

    Args:
        lm: `T5Gemma2Seq2SeqLM` with a preprocessor, which does not limit the length of an input.
        continuations: list of `Continuation`.
        batch_size: int. Texts at a time.

    Returns:
        A list of tuples of a float and a bool.

    Raises:
        ValueError: logits are not finite; or as `generate`.
    """
    found: list[Any] = [None] * len(continuations)
    for size, inputs in _by_count(continuations, batch_size).items():
        # Rows of a similar length come together.
        lengths = [_length([continuations[i] for i in numbers]) for numbers in inputs]
        for batch in batching.sorted_batches(lengths, max(1, batch_size // size), row_parts()):
            numbers = [inputs[i] for i in batch]
            of_batch = [[continuations[i] for i in of_input] for of_input in numbers]
            flat = [i for of_input in numbers for i in of_input]
            for i, score in zip(flat, _scores(lm, of_batch), strict=True):
                if not np.isfinite(score[0]):
                    raise finite.error(f"The logits of row {i}", lm.generator.dtype)
                found[i] = score
    return found


def _by_count(continuations, most):
    """Lists of the numbers of texts that come after one input, at most so many, by their count."""
    of_inputs = collections.defaultdict(list)
    for i, one in enumerate(continuations):
        of_inputs[one.context, tuple(map(id, one.images))].append(i)
    found = collections.defaultdict(list)
    for numbers in of_inputs.values():
        for start in range(0, len(numbers), most):
            part = numbers[start : start + most]
            found[len(part)].append(part)
    return found


def _length(of_input):
    first = of_input[0]
    return len(first.images), len(first.context), max(len(one.token_ids) for one in of_input)


def _scores(lm, of_inputs):
    """Scores of a batch of inputs, each of which has as many texts, one after another."""
    generator = lm.generator
    call = calls.call_of(generator)
    inputs = {"encoder_text": [of_input[0].context for of_input in of_inputs]}
    if any(of_input[0].images for of_input in of_inputs):
        inputs["images"] = [list(of_input[0].images) for of_input in of_inputs]
    encoded, _ = lm.preprocessor.encode_rows(inputs, encoder_sequence_length=sys.maxsize)
    rows = batching.rows_of_encoded(encoded)
    memory = remembered(generator, rows, call)
    texts = [np.asarray(one.token_ids, "int32") for of_input in of_inputs for one in of_input]
    times = len(texts) // len(of_inputs)
    rows = rows._replace(prompts=[prompt for prompt in rows.prompts for _ in range(times)])
    states = states_before(generator, rows, texts, memory, call)
    log_probs, greedy = scores_of_labels(generator, *states, call)
    ends = np.cumsum([len(ids) for ids in texts])[:-1]
    pairs = zip(np.split(log_probs, ends), np.split(greedy, ends), strict=True)
    return [(float(of_text.sum()), bool(chosen.all())) for of_text, chosen in pairs]
