"""How much of a text a model knows by heart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.evaluation.metrics import edit_distance
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted, number


class Memorization(NamedTuple):
    """What `memorization` found; printed, a table.

    Example:

    >>> found = keras_t5gemma2.Memorization(2, 0.5, 0.5, [0, 7], 10, 0.1)
    >>> print(found)
    | texts | exact | approximate |
    | ---: | ---: | ---: |
    | 2 | 50.0 % | 50.0 % |
    """

    texts: int  # that were long enough
    exact: float  # the share of texts that went on as they do
    approximate: float  # the share of those that came near, the exact ones included
    distances: list[int]  # per text, in tokens: what has to be changed in what the model wrote
    suffix_tokens: int
    tolerance: float

    def __str__(self) -> str:
        shares = f"{100 * self.exact:.1f} % | {100 * self.approximate:.1f} %"
        return (
            f"| texts | exact | approximate |\n| ---: | ---: | ---: |\n| {self.texts} | {shares} |"
        )


def memorization(
    lm: Any,
    texts: Sequence[str],
    prefix_tokens: int = 50,
    suffix_tokens: int = 50,
    tolerance: float = 0.1,
    batch_size: int | None = None,
) -> Memorization:
    """How many texts a model goes on with word for word, as the report of Gemma 3 measures it.

    The encoder gets the first `prefix_tokens` of a text, and the model writes `suffix_tokens` more,
    the likeliest each. A text is memorized exactly where these are what comes next in it, and
    approximately where their edit distance to that is at most `tolerance` of its length.
    (arXiv 2503.19786, section 5.) Whether what is memorized is harmful is for a classifier of
    your own to say, of texts that `generate` gives.

    Args:
        lm: `T5Gemma2Seq2SeqLM` with a preprocessor.
        texts: list of strings. Shorter ones than both together are left out.
        prefix_tokens: int. Tokens that the model is shown.
        suffix_tokens: int. Tokens that it is to go on with.
        tolerance: float, from 0 to below 1.
        batch_size: int. Texts at a time, as `generate` has it.

    Returns:
        `Memorization`.

    Raises:
        ValueError, TypeError: an argument is not as it should be, or no text is long enough.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> text = "Write 2026-12-17 in French. 17 décembre 2026"
    >>> print(keras_t5gemma2.memorization(lm, [text], prefix_tokens=10, suffix_tokens=10))
    | texts | exact | approximate |
    | ---: | ---: | ---: |
    | 1 | 0.0 % | 0.0 % |
    """
    _check(lm, texts, prefix_tokens=prefix_tokens, suffix_tokens=suffix_tokens)
    share = number(tolerance)
    if share is None or not 0 <= share < 1:
        raise ValueError(
            f"`tolerance` must be from 0 to below 1. Received: tolerance={shown(tolerance)}"
        )
    whole = prefix_tokens + suffix_tokens
    ids = [
        np.array(of_text, "int32") for of_text in lm.preprocessor.tokenizer.tokenize(list(texts))
    ]
    long = [of_text[:whole] for of_text in ids if len(of_text) >= whole]
    if not long:
        raise ValueError(
            f"A text must have at least {whole} tokens, `prefix_tokens` and `suffix_tokens`. "
            f"Received: {len(texts)} texts of at most {max(map(len, ids))} tokens"
        )
    start = lm.preprocessor.tokenizer.start_token_id
    inputs = _prompts(np.stack(long)[:, :prefix_tokens], start)
    # Ids and no texts: a prefix that is split anew may have other tokens.
    plain = type(lm)(lm.backbone)
    plain.generator.sampler = "greedy"
    written = plain.generate(
        inputs,
        stop_token_ids=None,
        strip_prompt=True,
        max_new_tokens=suffix_tokens,
        batch_size=batch_size,
        verbose=0,
    )["decoder_token_ids"]
    pairs = zip(written, (of_text[prefix_tokens:] for of_text in long), strict=True)
    distances = [edit_distance(one[:suffix_tokens].tolist(), two.tolist()) for one, two in pairs]
    limit = share * suffix_tokens
    exact = float(np.mean([distance == 0 for distance in distances]))
    near = float(np.mean([distance <= limit for distance in distances]))
    return Memorization(len(long), exact, near, distances, suffix_tokens, share)


def _prompts(prefixes, start):
    """Arrays of rows whose encoder sees a prefix, and whose decoder begins."""
    first = np.full((len(prefixes), 1), start, "int32")
    encoder = np.concatenate([first, prefixes], axis=1)
    return {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": np.ones_like(encoder),
        "decoder_token_ids": first,
        "decoder_padding_mask": np.ones_like(first),
    }


def _check(lm, texts, **counts):
    if getattr(lm, "preprocessor", None) is None:
        raise ValueError(
            f"`lm` must be a task with a preprocessor, which has a tokenizer. Received: {shown(lm)}"
        )
    is_list = isinstance(texts, (list, tuple)) and len(texts) > 0
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`texts` must be a list of strings. Received: texts={shown(texts)}")
    for name, value in counts.items():
        counted(name, value)
