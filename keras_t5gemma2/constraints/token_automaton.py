"""Rules about text as tables over tokens, which a compiled program reads.

A rule is an automaton over bytes: a state, a byte, the next state. Most tokens of a vocabulary do
the same to every state, so that they are put into classes: a program needs the class of each token
and a table of states by classes, a few KiB.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.constraints.byte_automaton import DEAD, ByteAutomaton

# More tokens than any budget: from here no end can be reached.
FAR = np.iinfo("int32").max // 2
# The smallest table of a program, which serves all that are no larger.
_SMALLEST = 64


class Automaton(NamedTuple):
    """A rule over tokens, padded to a size that several rules share; arrays or tensors."""

    classes: Any  # (V,) int32: the class of each token
    table: Any  # (S, C) int32: the next state, or DEAD
    accepts: Any  # (S,) bool
    final: Any  # (S,) bool
    distance: Any  # (S,) int32: the fewest tokens to a state that accepts, FAR if there are none
    forbids: Any  # bool scalar: whether any state forbids any token

    def reader(self):
        """A `Reader` of the first token; the arrays are of numpy."""
        return Reader(self)


def compiled(rule, tokens, size, may_write_control, stop_token_ids=()):
    """The `Automaton` of a `ByteAutomaton`.

    Args:
        rule: `ByteAutomaton`.
        tokens: `token_bytes.TokenBytes`.
        size: int, the vocabulary of the model, at least as large as that of the tokens.
        may_write_control: bool. Whether tokens without text are allowed, and change nothing.
        stop_token_ids: tuple of ids that are allowed where the text may end, and only there.

    Returns:
        An `Automaton` of numpy arrays, where each transition leads to a state from which
        tokens lead to an end.
    """
    classes, functions = _classes(rule.step, tokens)
    states = np.arange(len(rule.step), dtype="int32")
    nothing = states if may_write_control else np.full_like(states, DEAD)
    ends = np.where(rule.accepts, states, DEAD)
    functions = np.concatenate([functions, [nothing, ends]])
    left_out = tokens.lengths == 0 if may_write_control else tokens.is_control
    classes = np.where(left_out, len(functions) - 2, classes)
    classes = np.pad(classes, (0, size - len(classes)), constant_values=len(functions) - 2)
    if not may_write_control:
        classes[list(stop_token_ids)] = len(functions) - 1
    kept, classes = np.unique(classes, return_inverse=True)
    table = functions[kept].T
    distance = _distances(table, rule.accepts)
    reaches = np.append(distance < FAR, False)  # of DEAD, the last
    table = np.where(reaches[table], table, DEAD).astype("int32")
    return _padded(classes.astype("int32"), table, rule, distance)


def _classes(step, tokens):
    """Per token the number of the function that it is, and these: (functions, states)."""
    columns, byte_class = np.unique(step, axis=1, return_inverse=True)
    columns = np.append(columns, np.full((1, columns.shape[1]), DEAD), axis=0).astype("int32")
    byte_class, count = byte_class.reshape(-1), columns.shape[1]
    functions = [np.arange(len(step), dtype="int32")]
    known = {functions[0].tobytes(): 0}

    def number_of(function):
        key = function.tobytes()
        if key not in known:
            known[key] = len(functions)
            functions.append(function)
        return known[key]

    nothing = number_of(np.full(len(step), DEAD, "int32"))
    found = np.zeros(len(tokens.lengths), "int64")
    for place in range(tokens.data.shape[1]):
        active = np.flatnonzero((tokens.lengths > place) & (found != nothing))
        if not active.size:
            break
        pairs = found[active] * count + byte_class[tokens.data[active, place]]
        pairs, inverse = np.unique(pairs, return_inverse=True)
        after = [number_of(columns[functions[pair // count], pair % count]) for pair in pairs]
        found[active] = np.array(after)[inverse]
    return found, np.stack(functions)


def _distances(table, accepts):
    """Per state the fewest tokens to one that accepts."""
    distance = np.where(accepts, 0, FAR).astype("int32")
    while True:
        shorter = np.append(distance, FAR)[table].min(axis=1) + 1
        shorter = np.minimum(distance, np.minimum(shorter, FAR))
        if (shorter == distance).all():
            return distance.astype("int32")
        distance = shorter


def _padded(classes, table, rule, distance):
    states, columns = (max(_SMALLEST, 1 << (n - 1).bit_length()) for n in table.shape)
    more = states - len(table)
    return Automaton(
        classes,
        np.pad(table, [(0, more), (0, columns - table.shape[1])], constant_values=DEAD),
        np.pad(rule.accepts, (0, more), constant_values=bool(rule.accepts.all())),
        np.pad(rule.final, (0, more)),
        np.pad(distance, (0, more), constant_values=FAR),
        np.array((table == DEAD).any()),
    )


def anything(size):
    """The `Automaton` that allows and ends nothing in particular, of the smallest table."""
    step = np.zeros((1, 256), "int32")
    rule = ByteAutomaton(step, np.ones(1, bool), np.zeros(1, bool))
    return _padded(np.zeros(size, "int32"), step[:, :1], rule, np.zeros(1, "int32"))


# In a program ------------------------------------------------------------------------------------


def allowed(automaton, states, left=None):
    """(B, C) bool: which classes of tokens may come next.

    Args:
        automaton: `Automaton` of tensors.
        states: (B,) int32.
        left: (B,) int32, tokens that may still be written, so that only those are allowed after
            which the rest suffices for an end; or `None` for no such limit. Where none would do,
            there is no such limit either.
    """
    table = ops.take(automaton.table, states, axis=0)
    lives = table >= 0
    if left is None:
        return lives
    distance = ops.take(automaton.distance, ops.maximum(table, 0), axis=0)
    fits = lives & (distance < left[:, None])
    return ops.where(ops.any(fits, axis=1, keepdims=True), fits, lives)


def after(automaton, states, ids):
    """(B,) states after the tokens `ids` (B,); a token that is not allowed changes nothing."""
    classes = ops.take(automaton.classes, ops.maximum(ids, 0), axis=0)
    count = automaton.table.shape[1]
    found = ops.take(ops.reshape(automaton.table, (-1,)), states * count + classes, axis=0)
    return ops.where(found < 0, states, found)


class Reader:
    """An automaton that reads tokens one by one, outside of any program.

    Args:
        automaton: `Automaton` of numpy arrays.

    Attributes:
        state: int.
        is_lost: bool. Whether a token was read that may not stand there.
    """

    def __init__(self, automaton):
        self._automaton, self.state, self.is_lost = automaton, 0, False

    def read(self, id):
        """Whether the text ends with this token."""
        found = self._automaton.table[self.state, self._automaton.classes[id]]
        self.is_lost = self.is_lost or found < 0
        self.state = self.state if found < 0 else int(found)
        return bool(self._automaton.final[self.state])

    @property
    def is_complete(self):
        """Whether a rule that says how a text ends lets it end here."""
        has_ends = not self._automaton.accepts.all()
        return has_ends and bool(self._automaton.accepts[self.state])
