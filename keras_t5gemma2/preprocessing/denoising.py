"""The objective that T5Gemma 2 was pretrained with: text with gaps, and what stood in them.

Everything here works on ids and needs numpy alone. The numbers are those of the T5Gemma 2 paper
(arXiv 2512.14856): five denoisers, the last of which, prefix-LM, comes as often as the others
together. Its way to mark the gaps is that of the published example: `<unused6237>` for the first,
`<unused6236>` for the second, and so on.
"""

from typing import NamedTuple

import numpy as np

from keras_t5gemma2.messages import shown


class Denoiser(NamedTuple):
    """A way to make gaps.

    Args:
        rate: float, above 0 and below 1. The part of all tokens that goes into gaps.
        mean_span: float, tokens, or `None` for one gap at the end: prefix-LM.
        weight: float. How often it comes beside the others.
    """

    rate: float
    mean_span: float | None
    weight: float = 1.0


DENOISERS = (
    Denoiser(rate=0.15, mean_span=3.0),
    Denoiser(rate=0.5, mean_span=12.0),
    Denoiser(rate=0.15, mean_span=32.0),
    Denoiser(rate=0.5, mean_span=32.0),
    Denoiser(rate=0.75, mean_span=None, weight=4.0),
)


class Denoised(NamedTuple):
    """A text with gaps.

    Attributes:
        inputs: (input length,) int32. What is left, with a sentinel in the place of each gap.
        targets: (target length,) int32. For each gap its sentinel and the tokens it had.
        spans: (gaps, 2) int. Where in `ids` each gap starts and where it stops.
    """

    inputs: np.ndarray
    targets: np.ndarray
    spans: np.ndarray


def denoise(ids, sentinel_ids, seed, denoisers=DENOISERS, max_inputs=None, max_targets=None):
    """A text with gaps, and what the decoder shall write to fill them.

    One of the denoisers is drawn by weight, then the number of tokens in gaps, the number of gaps,
    their lengths and their places: on average each is what the denoiser says. Between two gaps
    there is a token at least. Of a text that does not fit, a part is drawn that does.

    Args:
        ids: (length,) integers, the text without start and end token.
        sentinel_ids: the id that marks the first gap, the second, and so on. There are never more
            gaps than ids here.
        seed: as `numpy.random.default_rng` takes it: an int, or a sequence of ints.
        denoisers: `Denoiser`s to draw from.
        max_inputs: int, or `None`. Most tokens of `inputs`.
        max_targets: int, or `None`. Most tokens of `targets`.

    Returns:
        `Denoised`.

    Raises:
        ValueError: `ids` are empty or hold a sentinel, or there are no sentinels, a limit has no
            room for a gap, or a denoiser is none.

    Example:

    >>> text = np.arange(100, 120)
    >>> inputs, targets, spans = denoise(text, [9, 8, 7], seed=4, denoisers=[Denoiser(0.3, 3)])
    >>> inputs.tolist()
    [100, 9, 106, 107, 108, 109, 110, 8, 112, 113, 114, 115, 116, 117, 118, 119]
    >>> targets.tolist()
    [9, 101, 102, 103, 104, 105, 8, 111]
    """
    ids, sentinel_ids = (np.asarray(x).astype("int32") for x in (ids, sentinel_ids))
    _check(ids, sentinel_ids, denoisers, max_inputs, max_targets)
    rng = np.random.default_rng(seed)
    weights = np.array([denoiser.weight for denoiser in denoisers], float)
    denoiser = denoisers[rng.choice(len(denoisers), p=weights / weights.sum())]
    draws = rng.random(2)
    limits = len(sentinel_ids), max_inputs, max_targets
    length = _length_that_fits(len(ids), denoiser, draws, limits)
    start = rng.integers(len(ids) - length + 1)
    spans = _draw_spans(length, denoiser, draws, limits[0], rng)
    inputs, targets = _cut(ids[start : start + length], spans, sentinel_ids)
    return Denoised(inputs, targets, spans + start)


def fill(inputs, targets, sentinel_ids):
    """The text that `inputs` are with their gaps filled as `targets` say.

    Args:
        inputs: (input length,) integers with a sentinel for each gap.
        targets: (target length,) integers: each gap's sentinel and its tokens.
        sentinel_ids: as of `denoise`.

    Returns:
        (length,) int32. A gap that `targets` do not fill keeps its sentinel.

    Example:

    >>> fill([5, 99, 7, 98], [99, 6, 98, 8, 9], [99, 98, 97]).tolist()
    [5, 6, 7, 8, 9]
    """
    found = split_at_sentinels(targets, sentinel_ids)
    parts = [found.get(token, [token]) for token in np.asarray(inputs).tolist()]
    return np.array([token for part in parts for token in part], "int32")


def split_at_sentinels(targets, sentinel_ids):
    """The tokens that follow each sentinel: a dict of lists of ints by the sentinel's id.

    What stands before the first sentinel is left out, and of a sentinel that comes again the
    first time counts.

    >>> split_at_sentinels([3, 99, 6, 98, 8, 9], [99, 98, 97])
    {99: [6], 98: [8, 9]}
    """
    sentinel_ids = set(np.asarray(sentinel_ids).tolist())
    found, part = {}, []
    for token in np.asarray(targets).tolist():
        if token in sentinel_ids:
            part = []
            found.setdefault(token, part)
        else:
            part.append(token)
    return found


def check_denoisers(denoisers):
    """Raises a `ValueError` if these are no `Denoiser`s to draw from."""
    for denoiser in denoisers:
        rate, mean_span, weight = denoiser
        is_span = mean_span is None or mean_span >= 1
        if not (0 < rate < 1 and is_span and weight > 0):
            raise ValueError(
                "A `Denoiser` must have a rate between 0 and 1, a mean_span of at least 1 or "
                f"`None`, and a positive weight. Received: {denoiser}"
            )
    if not len(denoisers):
        raise ValueError("`denoisers` must hold one at least. Received: none")


def _check(ids, sentinel_ids, denoisers, max_inputs, max_targets):
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"`ids` must be one row of tokens. Received: shape {ids.shape}")
    if not len(sentinel_ids):
        raise ValueError("`sentinel_ids` must mark one gap at least. Received: none")
    if (there := np.isin(ids, sentinel_ids)).any():
        raise ValueError(
            "A text must hold no sentinel before it gets gaps. Received: id "
            f"{ids[there][0]} at token {np.flatnonzero(there)[0]}"
        )
    # One sentinel, and in the targets one token.
    for name, limit, least in (("max_inputs", max_inputs, 1), ("max_targets", max_targets, 2)):
        if limit is not None and limit < least:
            raise ValueError(f"`{name}` must be at least {least}. Received: {name}={shown(limit)}")
    check_denoisers(denoisers)


def _counts(length, denoiser, draws, most_spans):
    """How many tokens are in gaps, and how many gaps.

    Fractions are rounded up as often as they are large, so that the mean is exact.
    """
    noise = int(length * denoiser.rate + draws[0])
    noise = min(max(noise, 1), max(length - 1, 1))
    if denoiser.mean_span is None:
        return noise, 1
    spans = max(int(noise / denoiser.mean_span + draws[1]), 1)
    return noise, min(spans, noise, length - noise + 1, most_spans)


def _length_that_fits(length, denoiser, draws, limits):
    """The most tokens of which inputs and targets keep their limits; all of them if they can."""
    most_spans, max_inputs, max_targets = limits

    def fits(length):
        # More gaps than sentinels would be fewer than the denoiser wants: a shorter part it is.
        noise, spans = _counts(length, denoiser, draws, length)
        if length > 1 and spans > most_spans:
            return False
        inputs, targets = length - noise + spans, noise + spans
        return (max_inputs is None or inputs <= max_inputs) and (
            max_targets is None or targets <= max_targets
        )

    if fits(length):
        return length
    shortest, longest = 1, length  # the one fits, the other does not
    while longest - shortest > 1:
        middle = (shortest + longest) // 2
        if fits(middle):
            shortest = middle
        else:
            longest = middle
    return shortest


def _draw_spans(length, denoiser, draws, most_spans, rng):
    """(gaps, 2) starts and stops, in order, with a token between any two."""
    noise, count = _counts(length, denoiser, draws, most_spans)
    if denoiser.mean_span is None:
        return np.array([[length - noise, length]])
    lengths = _parts(noise, count, rng)
    # Before the first gap and after the last there may be nothing: a part of one, taken away.
    between = _parts(length - noise + 2, count + 1, rng)
    between[[0, -1]] -= 1
    starts = np.cumsum(between[:-1]) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.stack([starts, starts + lengths], axis=1)


def _parts(total, count, rng):
    """`count` positive integers that add up to `total`, each way to do so as likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _cut(ids, spans, sentinel_ids):
    inputs, targets, place = [], [], 0
    for (start, stop), sentinel in zip(spans, sentinel_ids, strict=False):
        inputs += [ids[place:start], [sentinel]]
        targets += [[sentinel], ids[start:stop]]
        place = stop
    inputs.append(ids[place:])
    return np.concatenate(inputs).astype("int32"), np.concatenate(targets).astype("int32")
