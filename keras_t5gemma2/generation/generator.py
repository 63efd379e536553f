"""Inputs to batches, these to new tokens, and these to text. Long by its docstrings."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import keras
import keras_hub
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation import batching, calls, finite, outputs, speculation
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.compiled_steps import program, programs_of, remembered
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.generation.encoded import Encoded, check_count, check_encoded, source_of
from keras_t5gemma2.generation.samplers import check_temperature, is_greedy, take_seed
from keras_t5gemma2.generation.screening import HeadSteps, Screening
from keras_t5gemma2.generation.sequences import sequence_of, with_log_probs
from keras_t5gemma2.generation.settings import settings_of
from keras_t5gemma2.generation.stepwise import begin, ids_by_steps
from keras_t5gemma2.generation.strategies import strategy_of
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.messages import short_errors, shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.sharding.batch import row_parts, to_devices
from keras_t5gemma2.typing import (
    CacheDType,
    CallSettings,
    ColumnNames,
    CrossAttentionCache,
    HeadKind,
    Inputs,
    StopTokenIds,
    Tensor,
    Verbose,
)

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM


class Generator:
    """Generates with a model: `encode`, `generate`, and what streams and other ways are made of.

    A task has one, which its own methods of these names are short for. One made beside it has a
    sampler, a kind of cache and compiled programs of its own.

    Args:
        model: a Keras model with a `backbone`, a `preprocessor` or `None`, and `logits`, a function
            of the decoder's outputs, such as `T5Gemma2Seq2SeqLM`.
        sampler: name or `keras_hub.samplers.Sampler`; may be set later.
        cross_attention_cache, cache_dtype, head: as `T5Gemma2Seq2SeqLM` has them.

    Attributes:
        programs: `compiled_steps.Programs`, or `None` where all is to be compiled anew.
        screening: `screening.Screening`, the copy of the table that a screened head reads.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> generator = type(lm.generator)(lm, "greedy")  # beside the task's own
    >>> generator.generate_function is None  # nothing is compiled yet
    True
    >>> generator.generate("Spell 42 in German.", max_new_tokens=16)
    'zweiundvierzig'
    >>> generator.preprocessor is lm.preprocessor, type(generator.sampler).__name__
    (True, 'GreedySampler')
    >>> generator.dtype, generator.cache_dtype, generator.cross_attention_cache
    ('float32', 'auto', 'auto')
    >>> generator.head, generator.head_steps
    ('auto', HeadSteps(screened=0, full=0))
    """

    def __init__(
        self,
        model: Any,
        sampler: str | keras_hub.samplers.Sampler | None = None,
        cross_attention_cache: CrossAttentionCache = "auto",
        cache_dtype: CacheDType = "auto",
        head: HeadKind = "auto",
    ) -> None:
        self.model, self.programs = model, None
        self.screening, self.head = Screening(), head
        self.cross_attention_cache, self.cache_dtype = cross_attention_cache, cache_dtype
        self._sampler: keras_hub.samplers.Sampler | None = None
        if sampler is not None:
            self.sampler = sampler

    @property
    def cross_attention_cache(self) -> CrossAttentionCache:
        """See `T5Gemma2Seq2SeqLM.cross_attention_cache`."""
        return self._cross_attention_cache

    @cross_attention_cache.setter
    def cross_attention_cache(self, value: CrossAttentionCache) -> None:
        self._cross_attention_cache = calls.checked_cache(value)

    @property
    def cache_dtype(self) -> CacheDType:
        """See `T5Gemma2Seq2SeqLM.cache_dtype`."""
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, value: CacheDType) -> None:
        self._cache_dtype = calls.checked_cache_dtype(value)

    @property
    def head(self) -> HeadKind:
        """See `T5Gemma2Seq2SeqLM.head`."""
        return self._head

    @head.setter
    def head(self, value: HeadKind) -> None:
        self._head = calls.checked_head(value)
        if value == "exact":
            self.screening.forget()

    @property
    def head_steps(self) -> HeadSteps:
        """See `T5Gemma2Seq2SeqLM.head_steps`."""
        return self.screening.steps

    @property
    def sampler(self) -> keras_hub.samplers.Sampler:
        """See `T5Gemma2Seq2SeqLM.sampler`."""
        return self._sampler

    @sampler.setter
    def sampler(self, value: str | keras_hub.samplers.Sampler) -> None:
        with short_errors():
            value = keras_hub.samplers.get(value)
        # keras-hub's own beams run on past the end token, where the reference's stop.
        if type(value) is keras_hub.samplers.BeamSampler:
            value = BeamSearch(**value.get_config())
        take_seed(value)
        self._sampler = value

    @property
    def preprocessor(self) -> Any:
        """That of the model."""
        return self.model.preprocessor

    @property
    def dtype(self) -> str:
        """String, the dtype in which the decoder computes."""
        return self.model.backbone.decoder.compute_dtype

    @property
    def generate_function(self) -> Callable[..., Tensor] | None:
        """See `T5Gemma2Seq2SeqLM.generate_function`."""
        return None if self.programs is None else self.programs.generate

    @generate_function.setter
    def generate_function(self, value: Callable[..., Tensor] | None) -> None:
        if value is None:
            self.programs = None
        else:
            programs_of(self).generate = value

    def encode(
        self,
        inputs: Inputs,
        cross_attention_cache: CrossAttentionCache | None = None,
        verbose: Verbose = "auto",
        *,
        columns: ColumnNames | None = None,
    ) -> Encoded:
        """See `T5Gemma2Seq2SeqLM.encode`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.generator.encode("Spell 7 in Dutch.")
        Encoded(rows=1, tokens=7, bytes=49408, kind="projected", dtype="float32")
        """
        call = calls.call_of(self, cross_attention_cache, verbose)
        inputs, _ = inputs_of.read(self.model, inputs, columns)
        with one_warning():
            rows, _ = inputs_of.rows_of(self.model, inputs)
        memory = remembered(self, rows, call)
        tokens = sum(int(mask.sum()) for mask in rows.encoder_masks)
        return Encoded(memory, len(rows.prompts), tokens, source_of(self, call))

    def generate(
        self,
        inputs: Inputs | None = None,
        max_length: int | None = None,
        stop_token_ids: StopTokenIds = "auto",
        strip_prompt: bool = False,
        max_new_tokens: int | None = None,
        assistant: 'T5Gemma2Seq2SeqLM | Literal["prompt_lookup"] | None' = None,
        *,
        encoded: Encoded | None = None,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        cross_attention_cache: CrossAttentionCache | None = None,
        columns: ColumnNames | None = None,
        verbose: Verbose = "auto",
        **settings: Unpack[CallSettings],
    ) -> Any:
        """See `T5Gemma2Seq2SeqLM.generate`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.generator.sampler = "greedy"
        >>> lm.generator.generate("Spell 42 in German.", max_new_tokens=16)
        'zweiundvierzig'
        """
        max_length, max_new_tokens, batch_size, num_return_sequences = checked(
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_return_sequences=num_return_sequences,
        )
        stop_token_ids = inputs_of.stop_token_ids(self.model, stop_token_ids)
        check_temperature(self.sampler)
        chosen = settings_of(self, settings, stop_token_ids)
        best = sequences_of_beams(chosen, self.sampler, num_return_sequences)
        if assistant is not None:
            chosen.check_assistant()
        of_call = None if assistant is not None else chosen
        call = calls.call_of(self, cross_attention_cache, verbose, of_call, best)
        if encoded is not None:
            check_encoded(encoded, self, call, cross_attention_cache)
        # A row that an assistant helps with is generated alone.
        parts = 1 if assistant is not None else row_parts()
        inputs, is_single = inputs_of.read(self.model, inputs, columns)
        batches, is_single = inputs_of.batches_of(
            self.model, inputs, is_single, encoded, batch_size, parts
        )
        if assistant is not None and (encoded is not None or num_return_sequences != 1):
            raise ValueError(
                "`assistant` goes with neither `encoded` nor `num_return_sequences`. Received: "
                f"encoded={shown(encoded)}, num_return_sequences={shown(num_return_sequences)}"
            )

        def sequences(numbers, rows, budgets):
            asked = rows, budgets, stop_token_ids, call
            if assistant is not None:
                found = speculation.new_tokens(self, assistant, *asked)
                return [[sequence_of(ids, stop_token_ids, chosen.rules)] for ids in found]
            return self._sequences(numbers, *asked, encoded, num_return_sequences, chosen)

        limits = max_length, max_new_tokens
        with one_warning():
            found = self._of_batches(batches, encoded, limits, sequences, chosen, verbose)
            outputs.report_unfinished(self.model, found, limits)
        return outputs.finished(self.model, found, strip_prompt, is_single, chosen)

    def _of_batches(self, batches, encoded, limits, sequences, settings, verbose):
        """For each row its prompt, its budget and a list of `Sequence`s."""
        is_shown = len(batches) > 1 if verbose == "auto" else verbose
        count = 1 + max(max(indices) for indices, _ in batches)
        settings.check_rows(count)
        progress = keras.utils.Progbar(count, verbose=int(is_shown), unit_name="row")
        found = {}
        if len(batches) > 1:
            inputs_of.check_all(self.model, batches, limits)
        for indices, part in batches:
            rows = inputs_of.rows_of(self.model, part, encoded)[0]
            budgets = inputs_of.budgets(self.model, part, rows, *limits)
            new = sequences(indices, rows, budgets)
            for number, of_row in zip(indices, new, strict=True):
                for sequence in of_row:
                    finite.check(sequence.ids, number, self.dtype)
            found |= zip(indices, zip(rows.prompts, budgets, new, strict=True), strict=True)
            progress.update(len(found))
        return [found[number] for number in range(count)]

    def generate_step(
        self,
        inputs: Mapping[str, Any],
        stop_token_ids: Sequence[int] | None = None,
        call: calls.Call | None = None,
    ) -> Tensor:
        """See `T5Gemma2Seq2SeqLM.generate_step`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> x = lm.preprocessor.generate_preprocess(["Spell 42 in German."])
        >>> x |= {"new_tokens": np.int32(4), "new_token_ids": np.full((1, 4), -1, "int32")}
        >>> keras.ops.convert_to_numpy(lm.generator.generate_step(x)).shape
        (1, 36)
        """
        call = calls.call_of(self) if call is None else call
        settings = inputs.get("settings")
        strategy = strategy_of(call.sampler, settings, call.best)
        loop, state, hidden, _ = begin(self, strategy, inputs, stop_token_ids, call)
        state = strategy.run(state, loop, hidden)
        if call.head_steps is not None:
            call.head_steps.append(state.head_steps)
        return finite.marked(strategy.result(state), strategy.broken(state))

    def _sequences(self, numbers, rows, budgets, stop_token_ids, call, encoded, times, settings):
        """For each row and each time, a `Sequence`."""
        repeats = times // call.best  # a beam search has no need of copies
        repeated = [prompt for prompt in rows.prompts for _ in range(repeats)]
        arrays = batching.pad_prompts(rows._replace(prompts=repeated), max(budgets))
        length = arrays["decoder_token_ids"].shape[1]
        if settings.has_rules:
            room = arrays["new_token_ids"].shape[1]
            of_rows = [budget for budget in budgets for _ in range(repeats)]
            arrays["settings"] = settings.arrays(numbers, repeats, of_rows, room)
        memory = None
        if encoded is not None:
            check_count(encoded, len(rows.prompts))
            memory = encoded.memory
        elif settings.return_scores:
            memory = remembered(self, rows, call)
        if memory is None:
            inputs = to_devices({**batching.pad_encoder(rows), **arrays})
        else:
            inputs = {**to_devices(arrays), "memory": memory}
        if settings.is_stepwise:
            token_ids = ids_by_steps(self, inputs, stop_token_ids, call, settings.constraint)
        else:
            sizes = arrays["new_token_ids"].shape
            inputs |= self.screening.inputs(self, call, *sizes, settings)
            step = self.make_generate_function(call)
            token_ids = processes.whole(step(inputs, stop_token_ids=stop_token_ids))
        of_rows = [budget for budget in budgets for _ in range(times)]
        new = batching.new_tokens_of_rows(token_ids, length, of_rows, stop_token_ids)
        new = [sequence_of(ids, stop_token_ids, settings.rules) for ids in new]
        new = [new[start : start + times] for start in range(0, len(new), times)]
        return with_log_probs(self, rows, new, memory, call) if settings.return_scores else new

    def make_generate_function(self, call: calls.Call | None = None) -> Callable[..., Tensor]:
        """See `T5Gemma2Seq2SeqLM.make_generate_function`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> x = lm.preprocessor.generate_preprocess(["Spell 42 in German."])
        >>> x |= {"new_tokens": np.int32(4), "new_token_ids": np.full((1, 4), -1, "int32")}
        >>> keras.ops.convert_to_numpy(lm.generator.make_generate_function()(x)).shape
        (1, 36)
        """
        if call is None:
            return programs_of(self).generate
        return functools.partial(self.run, call=call)

    def run(
        self,
        inputs: Mapping[str, Any],
        stop_token_ids: Sequence[int] | None = None,
        call: calls.Call | None = None,
    ) -> Tensor:
        """`generate_step`, compiled. `call` is by default as the attributes are now.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> x = lm.preprocessor.generate_preprocess(["Spell 42 in German."])
        >>> x |= {"new_tokens": np.int32(4), "new_token_ids": np.full((1, 4), -1, "int32")}
        >>> keras.ops.convert_to_numpy(lm.generator.run(x)).shape
        (1, 36)
        """
        call = calls.call_of(self) if call is None else call
        stops = None if stop_token_ids is None else tuple(stop_token_ids)

        # A class derived from the task may have a step of its own.
        is_of_task = getattr(self.model, "generator", None) is self
        step = self.model.generate_step if is_of_task else self.generate_step

        is_screened = "screen" in inputs

        def make():
            if not is_screened:
                return lambda _, inputs: step(inputs, stops, call)
            return lambda _, inputs: _with_head_steps(step, inputs, stops, call)

        key = "generate", stops, is_screened
        found = program(self, key, make, call, draws=True)((), inputs)
        if not is_screened:
            return found
        ids, steps = found
        self.screening.count(steps)
        return ids

    def prepare(self) -> None:
        """Lays weights out for steps; what is in training stays as its optimizer has it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.generator.prepare()
        """
        kernels.check_process(self.model.made_in_process)
        optimizer = getattr(self.model, "optimizer", None)  # none where it is not compiled
        is_training = getattr(optimizer, "built", False)
        self.model.backbone.decoder.lay_out(is_training=is_training)


def _with_head_steps(step, inputs, stop_token_ids, call):
    """What a step gives, and the `head_steps` of its loops."""
    found = []
    outputs = step(inputs, stop_token_ids, call._replace(head_steps=found))
    return outputs, sum(found, ops.zeros((2,), "int32"))


def sequences_of_beams(settings, sampler, count):
    """How many of the sequences of a row a beam search gives: all, or 1 where there is none.

    Args:
        settings: `settings.Settings`.
        sampler: that of the generator.
        count: int. Sequences of a row.

    Raises:
        ValueError: they would all be the same.
    """
    sampler = settings.sampler if settings.has_rules else sampler
    if count == 1:
        return 1
    if type(sampler) is BeamSearch and count <= sampler.num_beams:
        return count
    if settings.draws or not (isinstance(sampler, _CERTAIN) or is_greedy(sampler)):
        return 1
    raise ValueError(
        "`num_return_sequences` above 1 needs a sampler that draws, or as many beams, or the "
        f"sequences of a row are all the same. Received: num_return_sequences={shown(count)} and "
        f"a {type(sampler).__name__}. Give `temperature=1.0`, say, or compile with "
        '`sampler="top_p"`'
    )


_CERTAIN = (keras_hub.samplers.GreedySampler, BeamSearch, PerCall)
