"""The loop of `generate` from its first state on: whole in a program, or step by step from Python.

Step by step is for rules that no program can hold: Python says before each step which tokens may
come next. Of beams it must know which one each of them continues, so that the loop carries the
numbers of the rows, which are put into another order with everything else.
"""

import numpy as np
from keras import ops

from keras_t5gemma2.constraints import token_grammars
from keras_t5gemma2.constraints.rules import Rules
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation import decoding, finite
from keras_t5gemma2.generation.beams import Beams
from keras_t5gemma2.generation.compiled_steps import program, step_of
from keras_t5gemma2.generation.loop import Loop, first_state, run
from keras_t5gemma2.generation.screening import head_of
from keras_t5gemma2.generation.strategies import strategy_of
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.sharding.batch import to_devices

_ROW = "row"  # in `spelled`: the number of the row


def begin(generator, strategy, inputs, stop_token_ids, call):
    """What a loop begins with.

    Args:
        generator: `Generator`.
        strategy: `loop.Strategy`.
        inputs: dict of tensors as `Generator.generate_step` has them.
        stop_token_ids: tuple of ints, or `None`.
        call: `calls.Call`.

    Returns:
        A `Loop`, a `DecodeState`, hidden states of the prompt or `None`, and what
        `decoding.remember` gives.
    """
    backbone = generator.model.backbone
    memory = inputs.get("memory")
    memory = decoding.remember(backbone, inputs, *call.cache) if memory is None else memory
    options = {"keep_states": strategy.keeps_states, "cache_dtype": call.cache_dtype}
    cache, hidden = decoding.prefill(backbone, inputs, memory, **options)
    cache = caches.folded(cache) if strategy.is_folded else cache
    state = first_state(inputs["decoder_token_ids"], inputs["new_token_ids"], cache)
    limit = state.index + inputs["new_tokens"]
    settings = inputs.get("settings")
    head = head_of(inputs.get("screen"), call.sampler, settings)
    state = state if head is None else state._replace(head_steps=ops.zeros((2,), "int32"))
    loop = _loop_of(generator, strategy, memory, limit, stop_token_ids, settings, call, head)
    state = state if loop.rules is None else loop.rules.begin(state)
    return loop, state, hidden, memory


def ids_by_steps(generator, inputs, stop_token_ids, call, grammar):
    """The ids that the program of `generate` gives, (rows, L), of texts of a grammar.

    Args:
        generator: `Generator`.
        inputs: dict of tensors as `Generator.generate_step` has them, with `settings`.
        stop_token_ids: tuple of ints, or `None`.
        call: `calls.Call`.
        grammar: `token_grammars.TokenGrammar`.
    """
    settings, stops = inputs["settings"], stop_token_ids
    strategy = strategy_of(call.sampler, settings, call.best)
    has_beams = isinstance(strategy, Beams)
    given = generator, stops, call
    start, go_on = (lambda: _start(*given)), (lambda: _step(*given))
    first = program(generator, ("the start of steps", stops), start, call, draws=True)
    step = program(generator, ("a step of generate", stops), go_on, call, draws=True)
    memory, state = first((), inputs)

    new = int(ops.convert_to_numpy(inputs["new_tokens"]))
    limit = np.array(inputs["decoder_token_ids"].shape[1] + new, "int32")
    readers = [grammar.reader() for _ in range(state.ids.shape[0])]
    for _ in range(new):
        bits = to_devices({"bits": token_grammars.bits_of(readers)})
        told, state = step(state, memory, limit, {**settings, **bits})
        ids, parents, goes_on = map(processes.whole, told)
        if has_beams:
            readers = [readers[parent].copy() for parent in parents]
        has_ended = [reader.read(int(id)) for reader, id in zip(readers, ids, strict=True)]
        if not goes_on or (not has_beams and all(has_ended)):
            break
    found = finite.marked(strategy.result(state), strategy.broken(state))
    return processes.whole(found)


def _start(generator, stop_token_ids, call):
    """A function that gives what the encoder leaves, and the state before the first token."""

    def start(_, inputs):
        strategy = strategy_of(call.sampler, inputs["settings"], call.best)
        loop, state, hidden, memory = begin(generator, strategy, inputs, stop_token_ids, call)
        return memory, strategy.begin(state, loop, hidden)

    return start


def _step(generator, stop_token_ids, call):
    """A function that gives ids, of each the row that it continues, whether to go on; a state."""

    def step(state, memory, limit, settings):
        strategy = strategy_of(call.sampler, settings, call.best)
        limit = ops.convert_to_tensor(limit, dtype="int32")
        rows = ops.arange(state.ids.shape[0], dtype="int32")
        state = state._replace(spelled={**state.spelled, _ROW: rows})
        loop = _loop_of(generator, strategy, memory, limit, stop_token_ids, settings, call)
        state = run(strategy, state, loop, most=1)
        spelled = dict(state.spelled)
        parents = spelled.pop(_ROW)
        last = ops.take(state.ids, state.index - 1, axis=1)
        told = last, parents, strategy.goes_on(state, loop)
        return told, state._replace(spelled=spelled)

    return step


def _loop_of(generator, strategy, memory, limit, stop_token_ids, settings, call, head=None):
    step = step_of(generator, memory, call, strategy.is_folded, head)
    rules = None if settings is None else Rules(settings, call.processors)
    return Loop(step, limit, tuple(stop_token_ids or ()), generator.model, rules)
