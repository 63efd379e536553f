"""Text as it is written: `generate` in chunks of a few tokens, and its ids as pieces of text."""

import functools
import re
import time

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.constraints import token_grammars
from keras_t5gemma2.constraints.rules import Rules
from keras_t5gemma2.constraints.words import cut, held_back
from keras_t5gemma2.generation import batching, calls, finite
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.compiled_steps import program, start, step_of
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.generation.loop import Loop
from keras_t5gemma2.generation.outputs import report_unfinished
from keras_t5gemma2.generation.samplers import check_temperature, goes_token_by_token
from keras_t5gemma2.generation.screening import head_of
from keras_t5gemma2.generation.sequences import sequence_of
from keras_t5gemma2.generation.settings import OPTIONS, settings_of
from keras_t5gemma2.generation.strategies import strategy_of
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.sharding.batch import to_devices

# A chunk's tokens come together. As long as one takes less than this, which hardly anybody notices,
# the next is twice as long, since every chunk costs a call beside its steps: on TensorFlow ten
# milliseconds and more, which goes through every tensor of the cache in Python.
_SECONDS = 0.15 if keras.config.backend() == "tensorflow" else 0.05
_MOST_STEPS = 64


# Of the settings of `generate`, those that a text that comes in pieces can have.
_SETTINGS = tuple(name for name in OPTIONS if name not in ("return_scores", "length_penalty"))


def stream(
    generator,
    inputs,
    limits,
    stop_token_ids,
    strip_prompt,
    cross_attention_cache,
    columns,
    verbose,
    options,
):
    """See `T5Gemma2Seq2SeqLM.stream`.

    Args:
        generator: `Generator`.
        limits: `max_length` and `max_new_tokens`.
        options: dict of the settings of the call.
        Others are those of that method.
    """
    stop_token_ids = inputs_of.stop_token_ids(generator.model, stop_token_ids)
    settings = settings_of(generator, options, stop_token_ids, "stream", _SETTINGS)
    _check_goes_token_by_token(settings.sampler if settings.has_rules else generator.sampler)
    max_length, max_new_tokens = limits
    limits = tuple(checked(max_length=max_length, max_new_tokens=max_new_tokens))
    inputs, is_scalar = inputs_of.read(generator.model, inputs, columns)
    cuts = Cuts()
    with one_warning(cuts, says=False):
        rows, is_one = inputs_of.rows_of(generator.model, inputs)
    budgets = inputs_of.budgets(generator.model, inputs, rows, *limits)
    settings.check_rows(len(budgets))
    call = calls.call_of(generator, cross_attention_cache, verbose, settings)
    tokens = _tokens(generator, rows, budgets, stop_token_ids, call, settings)
    report = functools.partial(report_unfinished, generator.model, limits=limits)
    reported = _reported(tokens, budgets, cuts, report, stop_token_ids, settings)
    pieces = _ids(rows.prompts, reported, strip_prompt)
    if generator.preprocessor is not None:
        prompts = [[] if strip_prompt else prompt for prompt in rows.prompts]
        end = generator.preprocessor.end_of_text
        stop = (*settings.stop, end) if end else settings.stop
        pieces = _texts(pieces, generator.preprocessor.tokenizer, prompts, stop)
    return (piece for _, piece in pieces) if is_scalar or is_one else pieces


def _reported(tokens, budgets, cuts, report, stop_token_ids, settings):
    """The tokens; where they end, one warning of all that was cut."""
    new = [[] for _ in budgets]
    try:
        for row, id in tokens:
            new[row].append(id)
            yield row, id
        with one_warning(cuts, says=False):
            found = [[sequence_of(ids, stop_token_ids, settings.rules)] for ids in new]
            report([(None, *of_row) for of_row in zip(budgets, found, strict=True)])
    finally:
        cuts.say()


def _check_goes_token_by_token(sampler):
    if isinstance(sampler, PerCall):
        return
    check_temperature(sampler)
    is_greedy = getattr(sampler, "temperature", 1.0) == 0
    if not is_greedy and not goes_token_by_token(sampler):
        raise ValueError(
            "`stream` needs a sampler that decides on one token after another, such as `greedy`, "
            f"`random`, `top_k` or `top_p`. Received: sampler={type(sampler).__name__}. Call "
            "`generate`, or compile with another sampler."
        )


# Ids --------------------------------------------------------------------------------------------


def _tokens(generator, rows, budgets, stop_token_ids, call, settings):
    """Tuples of row and new id, in the order in which they come."""
    arrays = batching.pad_rows(rows, max(budgets))
    memory, state = start(generator, to_devices(arrays), call)
    rules = None
    if settings.has_rules:
        room = arrays["new_token_ids"].shape[1]
        asked = to_devices(settings.arrays(range(len(budgets)), 1, budgets, room))
        rules = Rules(asked, call.processors)
        state = rules.begin(state)
    readers = [[rule.reader() for rule in settings.rules] for _ in budgets]
    stops = stop_token_ids or ()
    screen = generator.screening.screen(generator, call, *arrays["new_token_ids"].shape, settings)
    if screen is not None:
        state = state._replace(head_steps=ops.zeros((2,), "int32"))
    screen = screen or ()
    chunk = lambda: _chunk(generator, stops, call)  # noqa: E731
    key = "stream", stops, bool(screen)
    go_on = program(generator, key, chunk, call, draws=True)

    here = arrays["decoder_token_ids"].shape[1]
    left, running, steps = max(budgets), dict(enumerate(budgets)), 1
    while running:
        began = time.perf_counter()
        steps = min(steps, left)
        asked = () if rules is None else rules.settings
        if settings.is_stepwise:
            bits = token_grammars.bits_of([of_row[-1] for of_row in readers])
            asked = {**asked, **to_devices({"bits": bits})}
        found, state = go_on(state, memory, np.array(steps, "int32"), asked, screen)
        if screen:
            generator.screening.count(state.head_steps)
            state = state._replace(head_steps=ops.zeros((2,), "int32"))
        fresh = processes.whole(found)[:, here : here + steps]
        here, left = here + steps, left - steps
        if time.perf_counter() - began < _SECONDS and not settings.is_stepwise:
            steps = min(2 * steps, _MOST_STEPS)
        for ids in fresh.T:
            for row in list(running):
                before = budgets[row] - running[row]
                finite.check(ids[row : row + 1], row, generator.dtype, before)
                has_ended = [reader.read(int(ids[row])) for reader in readers[row]]
                if any(reader.is_lost for reader in readers[row]):
                    del running[row]
                    continue
                yield row, int(ids[row])
                running[row] -= 1
                if not running[row] or ids[row] in stops or any(has_ended):
                    del running[row]


def _chunk(generator, stop_token_ids, call):
    """The loop of `generate` for a few steps: the ids so far, and the state to go on from."""

    def go_on(state, memory, steps, settings, screen):
        rules = Rules(settings, call.processors) if settings else None
        strategy = strategy_of(call.sampler, settings)
        limit = state.index + ops.convert_to_tensor(steps, dtype="int32")
        head = head_of(screen, call.sampler, settings)
        step = step_of(generator, memory, call, head=head)
        loop = Loop(step, limit, stop_token_ids, generator.model, rules)
        state = strategy.run(state, loop)
        return finite.marked(state.ids, state.broken), state

    return go_on


def _ids(prompts, tokens, strip_prompt):
    """Tuples of row and id, those of the prompts before all others."""
    for row, prompt in enumerate(() if strip_prompt else prompts):
        yield from ((row, int(i)) for i in prompt)
    yield from tokens


# Text -------------------------------------------------------------------------------------------


def _texts(tokens, tokenizer, prompts, stop):
    """Tuples of row and text of tuples of row and id, those of the prompts before all others."""
    writers = [Writer(tokenizer) for _ in prompts]
    ends = [End(stop) for _ in prompts]
    of_prompts = [len(prompt) for prompt in prompts]
    for row, token in tokens:
        piece = writers[row].add(token)
        # A string that stops is looked for among the new tokens only.
        is_new = not of_prompts[row]
        of_prompts[row] -= not is_new
        if piece := ends[row].add(piece) if is_new else piece:
            yield row, piece
    for row, writer in enumerate(writers):
        if piece := ends[row].add(writer.finish()) + ends[row].finish():
            yield row, piece


class End:
    """Text up to the first of a few strings; what may be the beginning of one waits.

    Args:
        stop: tuple of strings.

    Example:

    >>> end = End(("stop",))
    >>> [end.add(piece) for piece in ("a s", "to", "ne st", "op b")], end.finish()
    (['a ', '', 'stone ', ''], '')
    """

    def __init__(self, stop):
        self._stop, self._waiting, self._has_come = stop, "", False

    def add(self, piece):
        """The text that is final with this piece, which may be none."""
        if self._has_come:
            return ""
        text = self._waiting + piece
        before = cut(text, self._stop)
        self._has_come = len(before) < len(text)
        waits = 0 if self._has_come else held_back(before, self._stop)
        self._waiting = before[len(before) - waits :]
        return before[: len(before) - waits]

    def finish(self):
        """The text that waits."""
        return "" if self._has_come else self._waiting


class Writer:
    """The text of ids that come one by one, special tokens left out.

    What a byte of a character stands for is known when the run of such tokens has ended: with
    one more, all of them may come to stand for nothing. So a run waits.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.

    Example:

    >>> from keras_t5gemma2.vocabulary.sentencepiece_model import sentencepiece_model
    >>> pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "h"]
    >>> proto = sentencepiece_model(
    ...     pieces=[*pieces, *(f"<0x{byte:02X}>" for byte in range(256))],
    ...     scores=[0] * 262,
    ...     types=[3, 3, 3, 2, 1, 1] + [6] * 256,
    ...     bos_id=2,
    ...     eos_id=1,
    ...     pad_id=0,
    ...     unk_id=3,
    ... )
    >>> from keras_t5gemma2 import T5Gemma2Tokenizer
    >>> writer = Writer(T5Gemma2Tokenizer(proto))
    >>> first, second = (6 + byte for byte in "é".encode())
    >>> [writer.add(id) for id in (2, 5, 4, first, second, 5)], writer.finish()
    (['', 'h', ' ', '', '', 'éh'], '')
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._dropped = set(tokenizer.special_token_ids)
        self._before = []  # the last token written: some vocabularies spell a first one otherwise
        self._waiting = []

    def add(self, id):
        """The text that is final with this id, which may be none."""
        if id in self._dropped:
            return ""
        self._waiting.append(id)
        return "" if self._is_part(id) else self.finish()

    def finish(self):
        """The text of what waits."""
        if not self._waiting:
            return ""
        text = self._tokenizer.detokenize([*self._before, *self._waiting])
        written = self._tokenizer.detokenize(self._before) if self._before else ""
        self._before = self._waiting[-1:]
        self._waiting = []
        return text[len(written) :]

    def _is_part(self, id):
        """Whether the text of this id may be no whole characters."""
        token = self._tokenizer.id_to_token(id)
        return bool(re.fullmatch("<0x[0-9A-F]{2}>", token)) or (
            "\N{REPLACEMENT CHARACTER}" in self._tokenizer.detokenize([id])
        )
