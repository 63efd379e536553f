"""Sequences of all rows, as what `generate` returns; and what is said of those that go on."""

from typing import Any

import numpy as np

from keras_t5gemma2.constraints.words import cut
from keras_t5gemma2.generation import batching
from keras_t5gemma2.preprocessing.cuts import Cut, report


class Generated(dict):
    """What `generate` returns with `return_scores=True`, by key or as attributes.

    A value for each sequence, in the order of the rows; where the inputs were a single text and
    one sequence was asked for, the value itself.

    Attributes:
        texts: strings; without a preprocessor the dict of arrays that `generate` returns.
        token_ids: (T,) int32 arrays, the new tokens with the one that ends them.
        log_probs: (T,) float32 arrays, the logarithm of each token's probability. It is the
            model's own: neither temperature nor penalties, nor what may not be drawn, change it.
        scores: floats, the sums of `log_probs`: what `score` gives for the text with its end
            token.
        finished: bools, whether a text ended by itself, and not because its budget did.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> found = lm.generate("Spell 42 in German.", max_new_tokens=16, return_scores=True)
    >>> found.texts, found["finished"], found.log_probs.shape == found.token_ids.shape
    ('zweiundvierzig', True, True)
    """

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self[name]


def finished(model, rows, strip_prompt, is_single, settings):
    """What `generate` returns, of `(prompt, budget, list of `Sequence`s)` for each row."""
    texts = _texts(model, rows, strip_prompt, is_single, settings.stop)
    if not settings.return_scores:
        return texts
    drawn = [sequence for _, _, of_row in rows for sequence in of_row]
    values = {
        "token_ids": [sequence.ids for sequence in drawn],
        "log_probs": [sequence.log_probs for sequence in drawn],
        "scores": [float(sequence.log_probs.sum()) for sequence in drawn],
        "finished": [sequence.is_finished for sequence in drawn],
    }
    if is_single and len(drawn) == 1:
        values = {name: value[0] for name, value in values.items()}
    return Generated(texts=texts, **values)


def _texts(model, rows, strip_prompt, is_single, stop):
    length = max(len(prompt) + budget for prompt, budget, _ in rows)
    pairs = [(prompt, sequence.ids) for prompt, _, drawn in rows for sequence in drawn]
    ids = [new if strip_prompt else np.concatenate([prompt, new]) for prompt, new in pairs]
    outputs = batching.pad_outputs(ids, length)
    if model.preprocessor is None:
        is_alone = is_single and len(ids) == 1
        return {name: array[0] for name, array in outputs.items()} if is_alone else outputs
    texts = model.preprocessor.generate_postprocess(outputs)
    if stop:
        before = [prompt[:0] if strip_prompt else prompt for prompt, _ in pairs]
        before = model.preprocessor.generate_postprocess(batching.pad_outputs(before, length))
        lengths = map(len, before)
        texts = [text[:n] + cut(text[n:], stop) for text, n in zip(texts, lengths, strict=True)]
    return texts[0] if is_single and len(texts) == 1 else texts


def report_unfinished(model, rows, limits):
    """Reports rows that end because nobody said how long they may be."""
    if limits != (None, None) or model.preprocessor is None:
        return
    cap = model.preprocessor.decoder_sequence_length
    report(
        [
            Cut("default" if budget == batching.NEW_TOKENS else "room", number, budget, cap)
            for number, (_, budget, drawn) in enumerate(rows)
            for sequence in drawn
            if len(sequence.ids) == budget and not sequence.is_finished
        ]
    )
