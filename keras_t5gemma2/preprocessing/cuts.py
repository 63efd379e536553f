"""What was cut because it is too long, said in one warning for each call of a user."""

import contextvars
from typing import NamedTuple

from keras_t5gemma2.messages import shown, warn

_current = contextvars.ContextVar("cuts", default=None)
# Of data that comes in batches, the one that is read.
batch_number = contextvars.ContextVar("batch_number", default=None)


class Cut(NamedTuple):
    """One text of which tokens were left out."""

    kind: str  # a key of `_SENTENCES`
    row: int
    tokens: int
    limit: int | tuple


_MORE = "Set `preprocessor.{0}_sequence_length`, or give it to `from_preset`, to read more."
_FIRST = "`{0}_text` of row {{row}} has {{tokens}} tokens, of which the first {{limit}} are read "
_FIRST += "({0}_sequence_length={{limit}})"
_NEW = "{tokens} new tokens were written for row {row} and no stop token came"
# What is said of a kind of cut, and what to do about it.
_SENTENCES = {
    "encoder": (_FIRST.format("encoder"), _MORE.format("encoder")),
    "decoder": (_FIRST.format("decoder"), _MORE.format("decoder")),
    "part": (
        "`encoder_text` of row {row} has {tokens} tokens, of which a part that fits is drawn "
        "(encoder_sequence_length={limit[0]}, decoder_sequence_length={limit[1]})",
        "Set them, or give them to `from_preset`, for longer parts.",
    ),
    "default": (
        _NEW + ", the most where neither `max_new_tokens` nor `max_length` is given",
        "Give `max_new_tokens` for more.",
    ),
    "room": (
        _NEW + " before the prompt and they filled decoder_sequence_length={limit}",
        "Give `max_new_tokens` for more.",
    ),
}


class Cuts:
    """The cuts of one call, of which one warning is made.

    Args:
        refuses_targets: bool. Whether a target that would be cut is an error.
        is_silent: bool. Whether nothing is said.
    """

    def __init__(self, refuses_targets=False, is_silent=False):
        self.refuses_targets, self.is_said = refuses_targets, is_silent
        self.found = {}

    def add(self, cut):
        if cut.kind == "decoder" and self.refuses_targets:
            raise ValueError(
                "A target must not be cut to be scored. Received: `decoder_text` of row "
                f"{cut.row} with {cut.tokens} tokens, and "
                f"decoder_sequence_length={shown(cut.limit)}. "
                "Shorten it, or set `preprocessor.decoder_sequence_length`"
            )
        if not self.is_said:
            self.found[cut.kind, batch_number.get(), cut.row] = cut

    def say(self):
        """Warns of what was cut, once."""
        if self.is_said or not self.found:
            return
        self.is_said = True
        warn(" ".join(self._sentences()))
        self.found = {}

    def _sentences(self):
        for kind, (what, remedy) in _SENTENCES.items():
            of_kind = [(key, cut) for key, cut in self.found.items() if key[0] == kind]
            if not of_kind:
                continue
            (_, batch, _), cut = min(of_kind, key=lambda item: (item[0][1] or 0, item[1].row))
            place = "" if batch is None else f"In batch {batch}: "
            more = len(of_kind) - 1
            others = f"; and {more} more row{'s' * (more > 1)} likewise" if more else ""
            yield f"{place}{what.format(**cut._asdict())}{others}. {remedy}"


class one_warning:
    """A context: what is cut inside is said in one warning at its end.

    Inside of another such context it leaves that to the outer one, if it gets no `Cuts` of its own.

    Args:
        cuts: `Cuts`, or `None` for new ones.
        says: bool. Whether to warn at the end; else whoever has the `Cuts` does.
    """

    # A class: the frames of a generator's context would be taken for the user's lines.
    def __init__(self, cuts=None, says=True):
        self._cuts, self._says = cuts, says

    def __enter__(self):
        outer = _current.get()
        self._is_outer = self._cuts is not None or outer is None
        cuts = self._cuts or outer or Cuts()
        self._token = _current.set(cuts)
        return cuts

    def __exit__(self, kind, error, trace):
        cuts = _current.get()
        _current.reset(self._token)
        if self._is_outer and self._says and kind is None:
            cuts.say()


def report(cuts):
    """Notes down what was cut, for the call that is running.

    Args:
        cuts: list of `Cut`.

    Raises:
        ValueError: the call does not cut such texts.
    """
    with one_warning() as current:
        for cut in cuts:
            current.add(cut)
