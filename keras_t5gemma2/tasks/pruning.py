"""What a smaller vocabulary keeps, and what it does to texts."""

import collections
import itertools
from typing import NamedTuple

import numpy as np

_MOST_LOST = 20


class Lost(NamedTuple):
    """A token that texts had and a smaller vocabulary has not."""

    token: str
    count: int  # type: ignore[assignment]  # a tuple's method has the name
    now: tuple[str, ...]  # the tokens in its place, where it stands alone


class Losses(NamedTuple):
    """What a smaller vocabulary does to texts.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> small = lm.prune_vocabulary("Spell 7 in Dutch.", held_out=["Spell 7 in Dutch.", "Noël"])
    >>> losses = small.pruning.losses
    >>> losses.texts, losses.texts_unchanged
    (2, 1)
    """

    texts: int
    texts_unchanged: int  # that have the same tokens as before
    tokens_before: int
    tokens_after: int
    tokens_lost: int  # of those before: how many were of tokens that are gone
    unknown: int  # tokens that stand for what can no longer be written at all
    most_lost: tuple[Lost, ...]  # the most frequent ones first, 20 at most

    def __str__(self) -> str:
        lines = [
            f"{self.texts_unchanged} of {self.texts} texts have the same tokens; "
            f"{self.tokens_before} tokens become {self.tokens_after} "
            f"({_percent(self.tokens_after, self.tokens_before)}); {self.tokens_lost} of them "
            f"were of tokens that are gone, {self.unknown} now are unknown"
        ]
        lines += [f"{lost.count} x {lost.token!r} -> {list(lost.now)}" for lost in self.most_lost]
        return "\n".join(lines)


class Pruning(NamedTuple):
    """How a model came by a smaller vocabulary.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> pruning = lm.prune_vocabulary("Spell 7 in Dutch.").pruning
    >>> pruning.tokens_before, pruning.tokens_after == len(pruning.kept_ids)
    (2560, True)
    """

    kept_ids: np.ndarray  # (tokens_after,) int32: for each id, that of the same token before
    tokens_before: int  # rows of the embedding table, as those after
    tokens_after: int
    parameters_before: int
    parameters_after: int
    losses: Losses | None  # on the texts that were held out

    def __str__(self) -> str:
        share = _percent(self.parameters_after, self.parameters_before)
        line = (
            f"{self.tokens_before:,} tokens become {self.tokens_after:,}, and "
            f"{self.parameters_before:,} parameters {self.parameters_after:,} ({share})"
        )
        return line if self.losses is None else f"{line}\n{self.losses}"


def losses_of(before, after, kept, texts):
    """The `Losses` of texts.

    Args:
        before, after: `Vocabulary`, the whole and the smaller one.
        kept: list of ints, for each id of `after` that of the same token before.
        texts: list of strings.
    """
    old, new = before.encode(texts), after.encode(texts)
    is_kept = set(kept)
    unchanged = sum(
        ids == [kept[id] for id in others] for ids, others in zip(old, new, strict=True)
    )
    counts = collections.Counter(itertools.chain.from_iterable(old))
    gone = [(id, count) for id, count in counts.most_common() if id not in is_kept]
    most = tuple(
        Lost(before.tokens[id], count, tuple(after.tokens[i] for i in _again(after, before, id)))
        for id, count in gone[:_MOST_LOST]
    )
    unknown = None if after.unk_token is None else after.token_to_id(after.unk_token)
    return Losses(
        texts=len(texts),
        texts_unchanged=unchanged,
        tokens_before=sum(map(len, old)),
        tokens_after=sum(map(len, new)),
        tokens_lost=sum(count for _, count in gone),
        unknown=sum(ids.count(unknown) for ids in new),
        most_lost=most,
    )


def _again(after, before, id):
    return after.encode([before.decode([id])])[0]


def _percent(part, whole):
    return f"{100 * part / max(1, whole):.1f} %"
