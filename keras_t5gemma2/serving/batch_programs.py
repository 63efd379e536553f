"""The device's side of a batch that rows join and leave while it is decoded.

All rows share one clock, the `index` of `DecodeState`: a row that joins has so much padding that
its prompt ends at the present slot. Each layer's cache is a ring, so that the clock can go on; a
row lives for at most as many slots as the longest ring has. The ids are twice as long, and are
moved back by one length when the clock reaches their end.
"""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_t5gemma2.constraints.rules import Rules
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation import decoding, finite
from keras_t5gemma2.generation.cache import Cache
from keras_t5gemma2.generation.compiled_steps import step_of
from keras_t5gemma2.generation.drawing import Drawing
from keras_t5gemma2.generation.loop import DecodeState, Loop, run
from keras_t5gemma2.model.attention import Memory

# Steps of a chunk, at most, and alternatives of a token whose probabilities can be asked for.
MOST_STEPS = 16
MOST_ALTERNATIVES = 20


class Running(NamedTuple):
    """What a batch carries from chunk to chunk."""

    state: Any  # `DecodeState`, its cache folded
    memory: Any  # `Memory`, of each row its own


class Chunk(NamedTuple):
    """What a chunk has written, from the slot on in which it began."""

    index: Any  # int32 scalar, the slot after the last
    ids: Any  # (B, MOST_STEPS) int32
    broken: Any  # (B,) int32, as `DecodeState` has it
    log_probs: Any  # (B, MOST_STEPS) float32, 0 where nobody wants them
    alternatives: Any  # (B, MOST_STEPS, MOST_ALTERNATIVES) int32
    of_alternatives: Any  # the same shape, float32, their log-probabilities


# Rows --------------------------------------------------------------------------------------------


def begun(backbone, group, size, length, automata, cache_dtype):
    """The `Running` batch of `size` rows, none of which is in use.

    Args:
        backbone: `T5Gemma2Backbone`.
        group: `Memory` of any rows, whose shapes it takes.
        size: int.
        length: int. Tokens of a row's prompt and new tokens, at most.
        automata: names of the rules that rows have.
        cache_dtype: as `decoding.remember` has it.
    """
    config = backbone.decoder.config
    counts = caches.slot_counts(config, length)
    dtype = backbone.decoder.compute_dtype if cache_dtype == "auto" else cache_dtype
    pairs = zip(config.layers, counts, strict=True)
    past = tuple(caches.empty(attention, size, count, dtype) for attention, count in pairs)
    positions = {count: ops.full((size, count), -1, dtype="int32") for count in counts}
    zeros = ops.zeros((size,), "int32")
    state = DecodeState(
        ids=ops.full((size, 2 * length), -1, dtype="int32"),
        index=ops.convert_to_tensor(length, dtype="int32"),
        ended=ops.ones((size,), "bool"),
        cache=caches.folded(Cache(past, positions, zeros)),
        broken=ops.full((size,), finite.NEVER, dtype="int32"),
        spelled={name: ops.zeros((size,), "int32") for name in automata},
    )
    memory = of_rows(lambda axis, x: ops.take(x, zeros, axis=0), group)
    return Running(state, memory._replace(positions=ops.full_like(memory.positions, -1)))


def of_rows(function, *memories):
    """A `Memory` of `function(axis of tokens, *tensors)` of all that has rows on axis 0."""

    def mapped(part):
        parts = map(part, memories)
        return tree.map_structure(lambda *x: function(2, *x), *parts)

    first = memories[0]
    positions = function(1, *(memory.positions for memory in memories))
    if not first.shared:
        return Memory((), mapped(lambda memory: memory.layers), positions)
    # A layer's own part of what is shared begins with a tensor of rows; matrices follow.
    numbers = range(len(first.layers))
    of_layers = [mapped(lambda memory, i=i: memory.layers[i][0]) for i in numbers]
    layers = tuple((of_layers[i], *first.layers[i][1:]) for i in numbers)
    return Memory(mapped(lambda memory: memory.shared), layers, positions)


def resized(running, rows, width):
    """The batch of the rows `rows` (B,) of this one, which sees `width` tokens of the encoder."""
    take = lambda x: ops.take(x, rows, axis=0)  # noqa: E731
    state = running.state
    cache = tree.map_structure(take, caches.unfolded(state.cache))
    state = DecodeState(
        ids=take(state.ids),
        index=state.index,
        ended=take(state.ended),
        cache=caches.folded(cache),
        broken=take(state.broken),
        spelled=tree.map_structure(take, state.spelled),
    )
    memory = of_rows(lambda axis, x: take(x), running.memory)
    return Running(state, _widened(memory, width))


def picked(group, rows, width):
    """A `Memory` of the rows `rows` (M,) of a group, of `width` tokens."""
    return _widened(of_rows(lambda axis, x: ops.take(x, rows, axis=0), group), width)


def joined(backbone, running, new, slots, prompts, mask, cache_dtype):
    """The batch with further rows, whose prompts end at the present slot.

    Args:
        backbone: `T5Gemma2Backbone`.
        running: `Running`.
        new: `Memory` of M rows, of as many tokens as that of the batch.
        slots: (M,) int32, of the batch. What comes twice must be the same.
        prompts, mask: (M, P) int32, padded at the left.
        cache_dtype: as `decoding.remember` has it.
    """
    state, memory = running
    count, width = prompts.shape
    length = state.ids.shape[1] // 2
    room = ops.full((count, length - width), -1, dtype="int32")
    inputs = {"decoder_token_ids": prompts, "decoder_padding_mask": mask, "new_token_ids": room}
    read, _ = decoding.prefill(backbone, inputs, new, cache_dtype=cache_dtype)
    first = state.index - width  # the slot of the first column
    where = ops.expand_dims(slots, -1)
    put = lambda old, x: ops.scatter_update(old, where, ops.cast(x, old.dtype))  # noqa: E731

    def turned(x, axis):
        size = x.shape[axis]
        return ops.take(x, (ops.arange(size, dtype="int32") - first) % size, axis=axis)

    cache = caches.unfolded(state.cache)
    past = tree.map_structure(lambda old, x: put(old, turned(x, 2)), cache.past, read.past)
    positions = {n: put(old, turned(read.positions[n], 1)) for n, old in cache.positions.items()}
    cache = Cache(past, positions, put(cache.padding, read.padding + first))
    place = ops.arange(2 * length, dtype="int32") - first
    is_prompt = (place >= 0) & (place < width)
    ids = ops.take(prompts, ops.clip(place, 0, width - 1), axis=1)
    state = state._replace(
        ids=put(state.ids, ops.where(is_prompt, ids, -1)),
        cache=caches.folded(cache),
        broken=put(state.broken, ops.full((count,), finite.NEVER, dtype="int32")),
        spelled={
            name: put(old, ops.zeros((count,), "int32")) for name, old in state.spelled.items()
        },
    )
    return Running(state, of_rows(lambda axis, old, x: put(old, x), memory, new))


def rewound(running):
    """The batch with its clock one length back, where that is the last slot of its ids."""
    state = running.state
    length = state.ids.shape[1] // 2
    kept = state.ids[:, length:]
    cache = state.cache._replace(padding=state.cache.padding - length)
    ids = ops.concatenate([kept, ops.full_like(kept, -1)], axis=1)
    broken = ops.full_like(state.broken, finite.NEVER)
    state = state._replace(ids=ids, index=state.index - length, cache=cache, broken=broken)
    return Running(state, running.memory)


def _widened(memory, width):
    def padded(axis, x):
        more = [(0, 0)] * len(x.shape)
        more[axis] = (0, width - x.shape[axis])
        return ops.pad(x, more, constant_values=-1 if axis == 1 else 0)

    return of_rows(padded, memory) if memory.positions.shape[1] < width else memory


# Steps -------------------------------------------------------------------------------------------


def advanced(generator, call, running, steps, settings, asked):
    """The batch some steps later, and the `Chunk` that was written.

    Args:
        generator: `Generator`.
        call: `calls.Call`.
        running: `Running`.
        steps: int32 scalar, at most `MOST_STEPS`.
        settings: dict of tensors, as `Rules` and `Drawing` read them: `draws` is as wide as the
            ids, and `budget` the slot behind a row's last token.
        asked: dict of `is_used` (B,) bool; `stops` (B, N) int32, tokens that end a row, or -1;
            `wants` (B,) bool, whether log-probabilities are wanted; and `is_awaited`, a bool
            scalar, whether to return as soon as a row ends.
    """
    state, memory = running
    rows = state.ids.shape[0]
    shape = (rows, MOST_STEPS, MOST_ALTERNATIVES)
    first = state.index
    own = ops.zeros(shape[:2], "float32"), ops.zeros(shape, "int32"), ops.zeros(shape, "float32")
    state = state._replace(ended=~asked["is_used"], own=own)
    rules = Rules(settings, call.processors)
    loop = Loop(step_of(generator, memory, call), first + steps, (), generator.model, rules)
    state = run(_Serving(settings, asked, first), state, loop)
    slots = ops.minimum(first + ops.arange(MOST_STEPS, dtype="int32"), state.ids.shape[1] - 1)
    chunk = Chunk(state.index, ops.take(state.ids, slots, axis=1), state.broken, *state.own)
    return Running(state._replace(own=()), memory), chunk


class _Serving(Drawing):
    """Draws as `Drawing`; rows end one by one, and log-probabilities are noted down.

    Args:
        settings, asked: as `advanced` has them.
        first: int32 scalar, the slot in which the chunk begins.
    """

    def __init__(self, settings, asked, first):
        super().__init__(settings)
        self._asked, self._budget, self._first = asked, settings["budget"], first

    def goes_on(self, state, loop):
        has_ended = ops.any(state.ended & self._asked["is_used"])
        return ops.any(~state.ended) & ~(self._asked["is_awaited"] & has_ended)

    def read(self, state, loop):
        logits, state = super().read(state, loop)
        return logits, state._replace(own=(state.own, logits))

    def pick(self, logits, state, loop):
        own, of_model = state.own
        ids, state = super().pick(logits, state._replace(own=()), loop)
        ids = ops.cast(ids, "int32")
        is_stop = ops.any(ids[:, None] == self._asked["stops"], axis=1)
        ended = state.ended | is_stop | (state.index + 1 >= self._budget)
        noted = lambda: self._noted(own, of_model, ids, state.index)  # noqa: E731
        own = ops.cond(ops.any(self._asked["wants"]), noted, lambda: own)
        return ids, state._replace(ended=ended, own=own)

    def _noted(self, own, logits, ids, index):
        logits = ops.cast(logits, "float32")
        logits = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        of_ids = ops.take_along_axis(logits, ids[:, None], axis=1)
        values, alternatives = ops.top_k(logits, min(MOST_ALTERNATIVES, logits.shape[-1]))
        missing = [(0, 0), (0, MOST_ALTERNATIVES - values.shape[1])]
        found = of_ids, ops.pad(ops.cast(alternatives, "int32"), missing), ops.pad(values, missing)
        place = index - self._first
        starts = [0, place], [0, place, 0], [0, place, 0]
        shapes = [x if n == 0 else x[:, None] for n, x in enumerate(found)]
        triples = zip(own, starts, shapes, strict=True)
        return tuple(ops.slice_update(old, start, x) for old, start, x in triples)
