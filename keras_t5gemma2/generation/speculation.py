"""Speculative decoding: somebody cheap proposes tokens, one step of the model checks them all."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching, calls, decoding, finite
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation.compiled_steps import program, start
from keras_t5gemma2.generation.samplers import is_greedy
from keras_t5gemma2.generation.screening import Head
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.array_checks import image_shapes

# Tokens proposed at once. Looking them up costs nothing, a model costs a step for each.
_LOOKED_UP, _PREDICTED = 7, 4
_LONGEST_MATCH = 3  # tokens


def new_tokens(generator, assistant, rows, budgets, stop_token_ids, call):
    """The tokens that the greedy sampler gives, in fewer steps; row after row.

    Args:
        generator: `Generator`.
        assistant: "prompt_lookup", or a `T5Gemma2Seq2SeqLM`.
        rows: `batching.Rows`.
        budgets: list of ints. Per row, how many tokens to generate.
        stop_token_ids: tuple of ints, or `None`.
        call: `calls.Call`.

    Returns:
        Per row an int32 array of the new tokens, the stop token included.

    Raises:
        ValueError: the sampler is not greedy, or the assistant fits neither it nor the inputs.
    """
    _check_is_greedy(call.sampler)
    _check_assistant(generator.model, assistant, rows)
    stops = stop_token_ids or ()
    return [
        _new_tokens(generator, assistant, batching.row_of(rows, i), budget, stops, call)
        for i, budget in enumerate(budgets)
    ]


def _new_tokens(generator, assistant, row, budget, stop_token_ids, call):
    arrays = batching.pad_rows(row, budget)
    inputs = keras.tree.map_structure(ops.convert_to_tensor, arrays)
    proposals = _proposals(assistant, row, inputs, call)
    reader = _Reader(generator, inputs, proposals.most, call)

    ids, new = row.prompts[0].tolist(), []
    last = arrays["decoder_token_ids"].shape[1] - 1  # the slot of the last of `ids`
    while len(new) < budget:
        proposed = proposals.next(ids, last)[: budget - len(new) - 1]
        filler = [0] * (proposals.most - len(proposed)) if proposed else []
        wanted = reader.read([ids[-1], *proposed, *filler], last)
        right = [a == b for a, b in zip(proposed, wanted, strict=False)]
        count = [*right, False].index(False)
        # After the last right one stands the model's own: every step gives a token.
        fresh = wanted[: count + 1]
        stops = [i for i, id in enumerate(fresh) if id in stop_token_ids]
        fresh = fresh[: stops[0] + 1] if stops else fresh
        new, ids, last = new + fresh, ids + fresh, last + len(fresh)
        if stops or fresh[-1] == finite.NOT_FINITE:
            break
    return np.array(new, "int32")


class _Reader:
    """A model that reads tokens and says which ones it would have written.

    Args:
        generator: `Generator`.
        inputs: dict of the tensors that `batching.pad_rows` makes of one row.
        ahead: int. Of the tokens of one reading, those that may prove wrong.
        call: `calls.Call`.
    """

    def __init__(self, generator, inputs, ahead, call):
        self._memory, state = start(generator, inputs, call, ahead)
        self._cache = state.cache
        self._screening = generator.screening
        room = inputs["new_token_ids"].shape[1]
        self._screen = self._screening.screen(generator, call, ahead + 1, room) or ()
        read = lambda: _reading(generator.model)  # noqa: E731
        key = "a step of generate", bool(self._screen)
        self._read = program(generator, key, read, call)

    def read(self, ids, first):
        """Per token, the likeliest next one: ids stand in the slots from `first` on.

        Where the logits are not finite, it is `finite.NOT_FINITE`.
        """
        ids, first = np.array([ids], "int32"), np.array(first, "int32")
        found = self._read(self._cache, self._memory, ids, first, self._screen)
        likeliest, self._cache, steps = found
        if self._screen:
            self._screening.count(steps)
        return ops.convert_to_numpy(likeliest)[0].tolist()


def _reading(model):
    def read(cache, memory, ids, first, screen):
        ids, first = (ops.convert_to_tensor(x, dtype="int32") for x in (ids, first))
        cache = caches.unfolded(cache)
        hidden, cache = decoding.read(model.backbone, memory, ids, cache, first)
        logits, steps = Head(screen)(model, hidden) if screen else (model.logits(hidden), ())
        likeliest = ops.cast(ops.argmax(logits, axis=-1), "int32")
        likeliest = ops.where(finite.is_broken(logits), finite.NOT_FINITE, likeliest)
        return likeliest, caches.folded(cache), steps

    return read


# Proposals --------------------------------------------------------------------------------------


def _proposals(assistant, row, inputs, call):
    if assistant == "prompt_lookup":
        return _Lookup(row)
    return _Assistant(assistant.generator, inputs, call.verbose)


class _Lookup:
    """What followed the last tokens where they stood before."""

    most = _LOOKED_UP

    def __init__(self, row):
        self._seen = row.encoder_ids[0][row.encoder_masks[0]].tolist()

    def next(self, ids, _):
        return look_up(np.array(self._seen + ids), len(ids), self.most)


def look_up(ids, own, most):
    """What followed the last tokens of `ids` where they stood before.

    Of all such places the one that agrees in most tokens, up to three, and of these the last.

    Args:
        ids: (length,) ints.
        own: int. Of these, the last ones, among which the last tokens are looked at.
        most: int. The longest proposal.

    Returns:
        A list of at most `most` ints, maybe of none.

    Example:

    >>> look_up(np.array([5, 6, 7, 8, 9, 4, 6, 7]), own=2, most=3)
    [8, 9, 4]
    """
    for length in range(min(_LONGEST_MATCH, own), 0, -1):
        if length >= len(ids):
            continue
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
        places = np.flatnonzero((windows == ids[-length:]).all(axis=1))
        if places.size:
            after = places[-1] + length
            return ids[after : after + most].tolist()
    return []


class _Assistant:
    """What a smaller model would write."""

    most = _PREDICTED

    def __init__(self, generator, inputs, verbose):
        if generator.model.backbone.config.vision is None:
            inputs = {k: v for k, v in inputs.items() if k not in batching.SEEN}
        call = calls.call_of(generator, verbose=verbose)
        self._reader = _Reader(generator, inputs, self.most, call)
        self._dtype = generator.dtype
        self._is_new = True

    def next(self, ids, last):
        # Of the tokens that it proposed it has not read the last one, which may have been right.
        count = 1 if self._is_new else 2
        self._is_new = False
        first, fresh, proposed = last + 1 - count, ids[-count:], []
        for _ in range(self.most):
            proposed.append(self._reader.read(fresh, first)[-1])
            if proposed[-1] == finite.NOT_FINITE:
                raise finite.error("The logits of `assistant`", self._dtype)
            first, fresh = first + len(fresh), proposed[-1:]
        return proposed


# Errors -----------------------------------------------------------------------------------------


def _check_is_greedy(sampler):
    if not is_greedy(sampler):
        raise ValueError(
            "`assistant` needs the greedy sampler, whose text it does not change. Received: "
            f'sampler={type(sampler).__name__}. Call `compile(sampler="greedy")`.'
        )


def _check_assistant(task, assistant, rows):
    if isinstance(assistant, str) and assistant == "prompt_lookup":
        return
    if not isinstance(assistant, type(task)):
        raise ValueError(
            '`assistant` must be "prompt_lookup" or a `T5Gemma2Seq2SeqLM`. Received: '
            f"assistant={shown(assistant)}"
        )
    sizes = [lm.backbone.config.vocabulary_size for lm in (assistant, task)]
    if sizes[0] != sizes[1] or not _have_one_vocabulary(assistant, task):
        raise ValueError(
            "`assistant` must have the vocabulary of the model that it assists. Received: one of "
            f"{sizes[0]} tokens for one of {sizes[1]}"
            + (", which differ" if sizes[0] == sizes[1] else "")
        )
    _check_sees_the_images(assistant.backbone.config.vision, rows.seen)


def _have_one_vocabulary(*tasks):
    """Whether the tokenizers agree, where both models have one."""
    if any(task.preprocessor is None for task in tasks):
        return True
    first, second = (task.preprocessor.tokenizer.get_vocabulary() for task in tasks)
    return first == second


def _check_sees_the_images(vision, seen):
    for name, values in seen.items():
        shape = image_shapes(vision)[name] if vision is not None else None
        if values.shape[1] and values.shape[2:] != shape:
            raise ValueError(
                f"`assistant` must take the same `{name}` as the model that it assists. Received: "
                f"{values.shape[1]} of shape {values.shape[2:]} for an assistant that takes {shape}"
            )
