"""How sure a model is of each token of a text, and what it would have written instead."""

from typing import NamedTuple

import numpy as np

from keras_t5gemma2.generation import calls, finite
from keras_t5gemma2.generation.compiled_steps import remembered
from keras_t5gemma2.generation.label_scores import choices_at
from keras_t5gemma2.generation.sequences import states_before
from keras_t5gemma2.inspection.attention import names_of


class Probe(NamedTuple):
    """How a model finds each token of a text, as `T5Gemma2Seq2SeqLM.probe` gives it.

    Attributes:
        tokens: list of T strings.
        token_ids: (T,) int32.
        surprise: (T,) float32. The negative logarithm of each token's probability, in nats; their
            sum is the negative of what `score` gives.
        entropy: (T,) float32. How uncertain the choice was, in nats: 0 where one token is sure.
        alternatives: per token a list of the likeliest ones in its place and their probabilities,
            the likeliest first; it may be among them itself.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> probe = lm.probe("Spell 7 in German.", output="sieben", top=2)
    >>> probe.tokens, bool(probe.surprise.max() < 0.1)
    (['sieben', '<eos>'], True)
    >>> [token for token, _ in probe.alternatives[0]]
    ['sieben', 'sieb']
    """

    tokens: list[str]
    token_ids: np.ndarray
    surprise: np.ndarray
    entropy: np.ndarray
    alternatives: list[list[tuple[str, float]]]


def probe_of(lm, written, top):
    """The `Probe` of a `Written`, with so many alternatives.

    Raises:
        ValueError: logits are not finite.
    """
    generator, ids = lm.generator, written.token_ids
    call = calls.call_of(generator)
    memory = remembered(generator, written.rows, call)
    states = states_before(generator, written.rows, [ids], memory, call)
    log_probs, entropy, best, best_ids = choices_at(generator, *states, top, call)
    if not np.isfinite(log_probs.sum()):
        raise finite.error(f"The logits of row {written.number}", generator.dtype)
    alternatives = [
        list(zip(names_of(lm, of_token), np.exp(values).tolist(), strict=True))
        for of_token, values in zip(best_ids, best, strict=True)
    ]
    return Probe(names_of(lm, ids), ids, -log_probs, entropy, alternatives)
