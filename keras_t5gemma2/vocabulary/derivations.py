"""What byte-pair encoding builds a token of, and which tokens a vocabulary of a few ones needs."""

import itertools
import json


class Derivations:
    """The tokens that are merged on the way to each token of a vocabulary.

    Byte-pair encoding starts from single characters and merges pairs of neighbors, those of the
    lowest rank first. What it merges inside of a token does not depend on the text around it: so a
    vocabulary that holds some tokens and all that they are built of splits every text of these
    tokens as before.

    Args:
        vocabulary: `Vocabulary`.

    Raises:
        ValueError: a merge does not simply join its two tokens.

    Example:

    >>> from keras_t5gemma2.vocabulary.sentencepiece_model import sentencepiece_model
    >>> from keras_t5gemma2.vocabulary.vocabulary import Vocabulary
    >>> model = sentencepiece_model(
    ...     pieces=["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "c", "ab", "bc", "abc"],
    ...     scores=[0, 0, 0, 0, -9, -9, -9, -1, -2, -3],
    ...     types=[3, 3, 3, 2, 1, 1, 1, 1, 1, 1],
    ...     bos_id=2,
    ...     eos_id=1,
    ...     pad_id=0,
    ...     unk_id=3,
    ... )
    >>> sorted(Derivations(Vocabulary(model)).parts(9))  # "abc" is "ab" and "c", never "bc"
    [4, 5, 6, 7, 9]
    """

    def __init__(self, vocabulary):
        model = json.loads(vocabulary.to_plain_json())["model"]
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise ValueError(
                    "The tokens of a vocabulary must be joined as they are for it to be made "
                    f"smaller. Received: one whose `{name}` is {model[name]!r}"
                )
        self._tokens = vocabulary.tokens
        self._ids = {token: id for id, token in enumerate(self._tokens)}
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}

    def parts(self, id):
        """The ids that a token needs, a set: its own, and those of what it is merged of.

        A token that no merges lead to, such as one that is found in the text as it stands, needs
        itself alone.
        """
        pieces = list(self._tokens[id])
        found = set(pieces)
        while len(pieces) > 1:
            ranks = [self._ranks.get(pair) for pair in itertools.pairwise(pieces)]
            known = [rank for rank in ranks if rank is not None]
            if not known:
                return {id}
            first = ranks.index(min(known))  # of equal pairs the leftmost
            pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]
            found.add(pieces[first])
        return {id, *(self._ids[piece] for piece in found if piece in self._ids)}


def chosen(vocabulary, needed, counts, size=None, multiple=1):
    """The ids that a smaller vocabulary keeps, in their order, each with all its parts.

    Args:
        vocabulary: `Vocabulary`.
        needed: iterable of ids that are kept in any case.
        counts: dict from ids to how often they are used; the most used are kept first.
        size: int. The most tokens that are kept; `None` for all that are used.
        multiple: int. The first tokens that are merged fill up the number to a multiple of it.

    Returns:
        A sorted list of ids.

    Raises:
        ValueError: `size` is less than what is needed.
    """
    derivations = Derivations(vocabulary)
    kept = set()
    for id in needed:
        kept |= derivations.parts(id)
    if size is not None and len(kept) > size:
        raise ValueError(
            f"`size` must be at least {len(kept)}, what special tokens, bytes, characters and "
            f"`keep` need. Received: size={size}"
        )
    by_use = sorted(counts, key=lambda id: (-counts[id], id))
    _add(kept, by_use, derivations, len(vocabulary) if size is None else size)
    missing = -len(kept) % multiple
    if size is None or len(kept) + missing <= size:
        merged = (id for id in range(len(vocabulary)) if len(derivations.parts(id)) > 1)
        _add(kept, merged, derivations, len(kept) + missing)
    return sorted(kept)


def _add(kept, ids, derivations, size):
    """Adds those of `ids`, in their order, that come with all their parts into `size` tokens."""
    for id in ids:
        if len(kept) >= size:
            return
        if id not in kept:
            more = derivations.parts(id) - kept
            if len(kept) + len(more) <= size:
                kept |= more
