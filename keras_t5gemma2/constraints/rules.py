"""What a call asks of its text, inside the loop: penalties, words, constraints, ends."""

from typing import Any, NamedTuple

from keras import ops

from keras_t5gemma2.constraints import penalties, token_automaton, token_grammars

# Settings with an automaton, whose state the loop carries.
_AUTOMATA = ("words", "constraint")


class Rules(NamedTuple):
    """The rules of one call.

    Attributes:
        settings: dict of tensors, as `settings.Settings.arrays` makes them; and `bits`, where
            Python says which tokens may come next, as `token_grammars.allowed` has them.
        processors: tuple of functions of ids (B, L), -1 where no token stands, and logits.
    """

    settings: Any
    processors: tuple = ()

    @property
    def _automata(self):
        return [name for name in _AUTOMATA if name in self.settings]

    def begin(self, state):
        """A `DecodeState` with the first states of the automata."""
        # Each its own: the memory of a state is given away, and no tensor can be given twice.
        zeros = lambda: ops.zeros_like(state.ended, dtype="int32")  # noqa: E731
        return state._replace(spelled={name: zeros() for name in self._automata})

    def logits(self, logits, state):
        """(B, V) logits for slot `state.index` under the rules."""
        logits = ops.cast(logits, "float32")
        rows = logits.shape[0]
        settings, index = self.settings, state.index
        slots = ops.arange(state.ids.shape[1], dtype="int32")
        is_there = (slots < index) & (slots >= state.cache.padding[:, None])
        of_rows = lambda name: _repeated(settings[name], rows)  # noqa: E731
        logits = penalties.repetition(logits, state.ids, is_there, of_rows("repetition_penalty"))
        size = of_rows("no_repeat_ngram_size")
        logits = penalties.repeated_ngrams(logits, state.ids, is_there, index, size)
        for process in self.processors:
            logits = ops.cast(process(ops.where(is_there, state.ids, -1), logits), "float32")
        for name in self._automata:
            left = None
            if name == "constraint":
                written = index - (state.ids.shape[1] - settings["draws"].shape[1])
                left = of_rows("budget") - written
            logits = _masked(logits, settings[name], state.spelled[name], left)
        if "bits" in settings:
            is_allowed = token_grammars.allowed(settings["bits"], logits.shape[1])
            logits = ops.where(is_allowed, logits, float("-inf"))
        return logits

    def after(self, spelled, ids):
        """The states of the automata after the tokens `ids` (B,)."""
        changed = {
            name: token_automaton.after(self.settings[name], spelled[name], ids)
            for name in self._automata
        }
        return {**spelled, **changed}

    def ends(self, spelled):
        """(B,) bool: whether a text ends in these states."""
        ended = False
        for name in self._automata:
            ended = ops.take(self.settings[name].final, spelled[name], axis=0) | ended
        return ended


def _masked(logits, rule, states, left):
    def masked():
        is_allowed = token_automaton.allowed(rule, states, left)
        # A row that has ended goes on writing what nobody reads.
        is_allowed = is_allowed | ~ops.any(is_allowed, axis=1, keepdims=True)
        return ops.where(ops.take(is_allowed, rule.classes, axis=1), logits, float("-inf"))

    return ops.cond(rule.forbids, masked, lambda: logits)


def _repeated(x, rows):
    """Values of rows as those of their beams."""
    return x if x.shape[0] == rows else ops.repeat(x, rows // x.shape[0], axis=0)
