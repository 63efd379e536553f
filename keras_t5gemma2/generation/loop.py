"""The loop that generates: a step of the model, a choice of tokens, and again.

Greedy choice, drawing, contrastive search and beams differ in the choice alone: each is a
`Strategy`. Streaming runs the same loop for a few tokens at a time.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_t5gemma2.generation import finite


class DecodeState(NamedTuple):
    """What the loop carries from token to token; each tensor but `index` is a row on axis 0."""

    ids: Any  # (B, L) int32: the prompt, the new tokens, and -1 where there is none yet
    index: Any  # int32 scalar: the slot of the next token
    ended: Any  # (B,) bool: whether a token that stops was generated
    cache: Any  # of the tokens before `index - 1`: `Cache`, folded where the strategy allows it
    broken: Any  # (B,) int32: the first slot whose logits were not finite
    own: Any = ()  # what the strategy adds
    # Dict of (B,) int32, the states of the rules' automata, and maybe other numbers of the rows.
    spelled: Any = ()
    head_steps: Any = ()  # (2,) int32, as `screening.HeadSteps`, where the head is screened


class Loop(NamedTuple):
    """What stays the same from token to token."""

    step: Any  # function of a `DecodeState`: logits (B, V) for its `index`, hidden states, state
    limit: Any  # int32 scalar: the slot before which the loop ends
    stop_token_ids: tuple  # ids that end a row
    model: Any  # whose variables the step reads
    rules: Any = None  # `Rules` of the call, or none

    def has_ended(self, ids, spelled):
        """(B,) bool: whether a row ends with these tokens, after which its automata stand so."""
        ended = is_any(ids, self.stop_token_ids)
        return ended if self.rules is None else ended | self.rules.ends(spelled)


class Strategy:
    """How tokens are chosen.

    Attributes:
        is_folded: bool. Whether the cache may be carried folded, without the rows on axis 0.
        keeps_states: bool. Whether `begin` needs the hidden states of the prompt.
        variables: list of the variables that a choice changes, such as a random state.
    """

    is_folded = True
    keeps_states = False
    variables = ()

    def begin(self, state, loop, hidden):
        """The state before the first token; `hidden` are the states of the prompt, or `None`."""
        return state

    def read(self, state, loop):
        """Logits (B, V) for the next slot, and the state after the token before it was read."""
        logits, _, state = loop.step(state)
        return logits, state

    def pick(self, logits, state, loop):
        """(B,) ids for the next slot, and the state, maybe with its rows in another order."""
        raise NotImplementedError

    def goes_on(self, state, loop):
        """Bool tensor: whether any row needs another token."""
        if not loop.stop_token_ids and loop.rules is None:
            return ops.convert_to_tensor(True, dtype="bool")
        return ~ops.all(state.ended)

    def result(self, state):
        """(rows, L) ids."""
        return state.ids

    def broken(self, state):
        """(rows,) int32: of each row of the result the first slot without finite logits."""
        return state.broken

    def run(self, state, loop, hidden=None):
        """The state after the last token; see `run`."""
        return run(self, self.begin(state, loop, hidden), loop)


def first_state(prompt, room, cache):
    """The `DecodeState` before the first token.

    Args:
        prompt: (B, length) int32 tensor.
        room: (B, new tokens) int32 tensor of -1.
        cache: `Cache`, maybe folded.
    """
    return DecodeState(
        ids=ops.concatenate([prompt, room], axis=1),
        index=ops.convert_to_tensor(prompt.shape[1], dtype="int32"),
        ended=ops.zeros_like(cache.padding, dtype="bool"),
        cache=cache,
        broken=ops.full_like(cache.padding, finite.NEVER),
    )


def run(strategy, state, loop, most=None):
    """The `DecodeState` when all rows have ended, or the limit or `most` tokens are reached."""
    rules = loop.rules

    def goes_on(state):
        return strategy.goes_on(state, loop)

    def body(state):
        logits, state = strategy.read(state, loop)
        logits = logits if rules is None else rules.logits(logits, state)
        ids, state = strategy.pick(logits, state, loop)
        ids = ops.cast(ids, state.ids.dtype)
        spelled = state.spelled if rules is None else rules.after(state.spelled, ids)
        ended = state.ended | loop.has_ended(ids, spelled)
        written = ops.slice_update(state.ids, [0, state.index], ids[:, None])
        return state._replace(ids=written, index=state.index + 1, ended=ended, spelled=spelled)

    most = loop.limit - state.index if most is None else most
    return _while(goes_on, body, state, most, strategy.variables, loop.model)


def is_any(ids, wanted):
    """Bool tensor: which of the ids are among those of a tuple."""
    found = ops.zeros_like(ids, dtype="bool")
    for id in wanted:
        found = found | (ids == id)
    return found


def _while(goes_on, body, state, most, variables, model):
    if not variables or keras.config.backend() != "jax":
        loop = lambda state: (body(state),)  # noqa: E731
        return ops.while_loop(goes_on, loop, (state,), maximum_iterations=most)[0]
    # In JAX's loops no variable can be assigned: their values are carried. A scope hides the one
    # around it, so that it has to know the weights too.
    read = [*model.trainable_variables, *model.non_trainable_variables] if model else []
    weights = [variable.value for variable in read]

    def scoped(state, values):
        mapping = zip([*read, *variables], [*weights, *values], strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            state = body(state)
        after = zip(values, map(scope.get_current_value, variables), strict=True)
        return state, [old if new is None else new for old, new in after]

    values = [ops.convert_to_tensor(variable) for variable in variables]
    loop_vars = state, values
    state, values = ops.while_loop(
        lambda state, _: goes_on(state), scoped, loop_vars, maximum_iterations=most
    )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return state
