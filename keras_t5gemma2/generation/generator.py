"""Text by a model: inputs to batches, batches to new tokens, new tokens to text."""

import functools
import sys

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching, calls, decoding, finite, speculation
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.compiled_steps import program, programs_of, step_of
from keras_t5gemma2.generation.encoded import Encoded, check_encoded, source_of
from keras_t5gemma2.generation.loop import Loop, first_state
from keras_t5gemma2.generation.samplers import check_temperature, is_greedy, take_seed
from keras_t5gemma2.generation.strategies import strategy_of
from keras_t5gemma2.messages import short_errors, shown
from keras_t5gemma2.model.array_checks import SIDES, check_inputs
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.cuts import Cut, one_warning, report
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import Row, length_of_row
from keras_t5gemma2.preprocessing.sources import are_arrays, read_arrays, read_rows
from keras_t5gemma2.sharding.batch import row_parts, to_devices

_ROWS_AT_A_TIME = 32


class Generator:
    """Generates with a model: `encode`, `generate`, and what streams and other ways are made of.

    A task has one, which its own methods of these names are short for. One made beside it has a
    sampler, a kind of cache and compiled programs of its own.

    Args:
        model: a Keras model with a `backbone`, a `preprocessor` or `None`, and `logits`, a function
            of the decoder's outputs, such as `T5Gemma2Seq2SeqLM`.
        sampler: name or `keras_hub.samplers.Sampler`; may be set later.
        cross_attention_cache, cache_dtype: as `T5Gemma2Seq2SeqLM` has them.

    Attributes:
        programs: `compiled_steps.Programs`, or `None` where all is to be compiled anew.

    Example:

    >>> from keras_t5gemma2 import T5Gemma2Seq2SeqLM
    >>> lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> Generator(lm, "greedy").generate("Write as a number: seven", strip_prompt=True)
    '7'
    """

    def __init__(self, model, sampler=None, cross_attention_cache="auto", cache_dtype="auto"):
        self.model, self.programs = model, None
        self.cross_attention_cache, self.cache_dtype = cross_attention_cache, cache_dtype
        self._sampler = None
        if sampler is not None:
            self.sampler = sampler

    @property
    def cross_attention_cache(self):
        return self._cross_attention_cache

    @cross_attention_cache.setter
    def cross_attention_cache(self, value):
        self._cross_attention_cache = calls.checked_cache(value)

    @property
    def cache_dtype(self):
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, value):
        self._cache_dtype = calls.checked_cache_dtype(value)

    @property
    def sampler(self):
        return self._sampler

    @sampler.setter
    def sampler(self, value):
        with short_errors():
            value = keras_hub.samplers.get(value)
        # keras-hub's own beams run on past the end token, where the reference's stop.
        if type(value) is keras_hub.samplers.BeamSampler:
            value = BeamSearch(**value.get_config())
        take_seed(value)
        self._sampler = value

    @property
    def preprocessor(self):
        return self.model.preprocessor

    @property
    def dtype(self):
        """String, the dtype in which the decoder computes."""
        return self.model.backbone.decoder.compute_dtype

    @property
    def generate_function(self):
        return None if self.programs is None else self.programs.generate

    @generate_function.setter
    def generate_function(self, value):
        if value is None:
            self.programs = None
        else:
            programs_of(self).generate = value

    def encode(self, inputs, cross_attention_cache=None, verbose="auto", *, columns=None):
        """See `T5Gemma2Seq2SeqLM.encode`."""
        call = calls.call_of(self, cross_attention_cache, verbose)
        inputs, _ = self.read(inputs, columns)
        with one_warning():
            rows, _ = self.rows(inputs)
        encode = program(self, ("encode",), lambda: self._encode_function(call), call)
        memory = encode((), to_devices(batching.pad_encoder(rows)))
        tokens = sum(int(mask.sum()) for mask in rows.encoder_masks)
        return Encoded(memory, len(rows.prompts), tokens, source_of(self, call))

    def generate(
        self,
        inputs=None,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=False,
        max_new_tokens=None,
        assistant=None,
        *,
        encoded=None,
        num_return_sequences=1,
        batch_size=None,
        cross_attention_cache=None,
        columns=None,
        verbose="auto",
    ):
        """See `T5Gemma2Seq2SeqLM.generate`."""
        max_length, max_new_tokens, batch_size, num_return_sequences = checked(
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_return_sequences=num_return_sequences,
        )
        stop_token_ids = self.stop_token_ids(stop_token_ids)
        check_temperature(self.sampler)
        call = calls.call_of(self, cross_attention_cache, verbose)
        if encoded is not None:
            check_encoded(encoded, self, call, cross_attention_cache)
        if num_return_sequences != 1:
            self._check_draws(num_return_sequences)
        # A row that an assistant helps with is generated alone.
        parts = 1 if assistant is not None else row_parts()
        inputs, is_single = self.read(inputs, columns)
        batches, is_single = self._batches(inputs, is_single, encoded, batch_size, parts)
        limits = max_length, max_new_tokens
        if assistant is not None and (encoded is not None or num_return_sequences != 1):
            raise ValueError(
                "`assistant` goes with neither `encoded` nor `num_return_sequences`. Received: "
                f"encoded={shown(encoded)}, num_return_sequences={shown(num_return_sequences)}"
            )
        is_shown = len(batches) > 1 if verbose == "auto" else verbose
        count = 1 + max(max(indices) for indices, _ in batches)
        progress = keras.utils.Progbar(count, verbose=int(is_shown), unit_name="row")
        found = {}
        with one_warning():
            if len(batches) > 1:
                self._check(batches, limits)
            for indices, part in batches:
                rows = self.rows(part, encoded)[0]
                budgets = self.budgets(part, rows, *limits)
                asked = rows, budgets, stop_token_ids, call
                if assistant is None:
                    new = self._new_tokens(*asked, encoded, num_return_sequences)
                else:
                    new = [[of_row] for of_row in speculation.new_tokens(self, assistant, *asked)]
                self._check_finite(indices, new)
                found |= dict(
                    zip(indices, zip(rows.prompts, budgets, new, strict=True), strict=True)
                )
                progress.update(len(found))
            found = [found[i] for i in range(count)]
            self.report_unfinished(found, limits, stop_token_ids)
        return self._finished(found, strip_prompt, is_single)

    def generate_step(self, inputs, stop_token_ids=None, call=None):
        """See `T5Gemma2Seq2SeqLM.generate_step`."""
        call = calls.call_of(self) if call is None else call
        strategy = strategy_of(call.sampler)
        memory = inputs["memory"] if "memory" in inputs else self._encode_step(inputs, call)
        options = {"keep_states": strategy.keeps_states, "cache_dtype": call.cache_dtype}
        cache, hidden = decoding.prefill(self.model.backbone, inputs, memory, **options)
        cache = caches.folded(cache) if strategy.is_folded else cache
        state = first_state(inputs["decoder_token_ids"], inputs["new_token_ids"], cache)
        step = step_of(self, memory, call, strategy.is_folded)
        limit = state.index + inputs["new_tokens"]
        loop = Loop(step, limit, tuple(stop_token_ids or ()), self.model)
        state = strategy.run(state, loop, hidden)
        return finite.marked(strategy.result(state), state.broken)

    # Parts of `generate` ----------------------------------------------------------------------

    def read(self, inputs, columns):
        """All rows of the inputs, or without a preprocessor arrays; whether it was a single row."""
        if inputs is None:
            return None, False
        if self.preprocessor is None:
            Columns(columns).check_is_not_needed()
            return read_arrays(inputs), False
        return read_rows(inputs, Columns(columns))

    def _batches(self, inputs, is_single, encoded, batch_size, parts):
        """Per batch the numbers of its rows and what `_rows` takes; whether there is one row."""
        if inputs is None:
            inputs = self._prompts_of_encoded(encoded)
        if self.preprocessor is None:
            return self._batches_of_arrays(inputs, encoded, batch_size, parts)
        if encoded is not None:  # its rows belong together
            return [(range(len(inputs)), inputs)], is_single and len(encoded) == 1
        size = _ROWS_AT_A_TIME if batch_size is None else batch_size
        batches = batching.sorted_batches([length_of_row(row) for row in inputs], size, parts)
        return [(indices, [inputs[i] for i in indices]) for indices in batches], is_single

    def _batches_of_arrays(self, inputs, encoded, batch_size, parts):
        arrays, is_single = self._arrays(inputs, encoded)
        count = len(arrays["decoder_token_ids"])
        if encoded is not None:
            return [(range(count), arrays)], is_single
        lengths = arrays["encoder_padding_mask"].sum(axis=1).tolist()
        size = _ROWS_AT_A_TIME if batch_size is None else batch_size
        batches = batching.sorted_batches(lengths, size, parts)
        if len(batches) == 1 and len(batches[0]) == count:
            return [(range(count), arrays)], is_single
        batches = [(batch, {name: x[batch] for name, x in arrays.items()}) for batch in batches]
        return batches, is_single

    def _arrays(self, inputs, encoded=None):
        """Arrays of rows that have been checked, and whether they came as one row without an axis.

        They are as the backbone takes them; only the decoder's where the rest is encoded already.
        """
        if not are_arrays(inputs):
            raise ValueError(
                "Without a preprocessor the inputs must be arrays as the model takes them, such as "
                f"`decoder_token_ids`. Received: preprocessor=None, and {shown(inputs)}"
            )
        arrays = {name: to_numpy(value) for name, value in inputs.items()}
        if is_single := arrays["decoder_token_ids"].ndim == 1:
            arrays = {name: array[None] for name, array in arrays.items()}
        sides = SIDES if encoded is None else SIDES[1:]
        check_inputs(arrays, self.model.backbone.config, sides)
        return arrays, is_single

    def _prompts_of_encoded(self, encoded):
        if encoded is None or self.preprocessor is None:
            raise ValueError(
                "`inputs` may be `None` where `encoded` is given and a preprocessor knows the "
                f"start token. Received: inputs=None, encoded={shown(encoded)}, "
                f"preprocessor={shown(self.preprocessor)}"
            )
        return [Row(None, [], None, number) for number in range(len(encoded))]

    def rows(self, inputs, encoded=None):
        """`generation.Rows`, of which only the prompts are there if the rest is encoded already."""
        if self.preprocessor is None:
            arrays, is_single = self._arrays(inputs, encoded)
            if encoded is not None:
                prompts = batching.prompts_of_arrays(arrays)
                return batching.rows_of_prompts(prompts), is_single
            return batching.rows_of_arrays(arrays), is_single
        if encoded is not None:
            inputs = [row._replace(encoder_text=None, images=[]) for row in inputs]
        # A prompt is never cut: one that leaves no room is an error.
        rows, is_single = self.preprocessor.encode_rows(inputs, decoder_sequence_length=sys.maxsize)
        return batching.rows_of_encoded(rows), is_single

    def _new_tokens(self, rows, budgets, stop_token_ids, call, encoded, times):
        """For each row and each time, the tokens generated."""
        repeated = [prompt for prompt in rows.prompts for _ in range(times)]
        arrays = batching.pad_prompts(rows._replace(prompts=repeated), max(budgets))
        length = arrays["decoder_token_ids"].shape[1]
        if encoded is None:
            inputs = to_devices({**batching.pad_encoder(rows), **arrays})
        else:
            _check_count(encoded, rows)
            inputs = {**to_devices(arrays), "memory": encoded.memory}
        step = self.make_generate_function(call)
        token_ids = ops.convert_to_numpy(step(inputs, stop_token_ids=stop_token_ids))
        budgets = [budget for budget in budgets for _ in range(times)]
        new = batching.new_tokens_of_rows(token_ids, length, budgets, stop_token_ids)
        return [new[start : start + times] for start in range(0, len(new), times)]

    def _check_finite(self, numbers, new):
        """Raises where a row's logits were not finite."""
        for number, drawn in zip(numbers, new, strict=True):
            for of_row in drawn:
                finite.check(of_row, number, self.dtype)

    def report_unfinished(self, rows, limits, stop_token_ids):
        """Reports rows that end because nobody said how long they may be."""
        if limits != (None, None) or self.preprocessor is None:
            return
        cap = self.preprocessor.decoder_sequence_length
        report(
            [
                Cut("default" if budget == batching.NEW_TOKENS else "room", number, budget, cap)
                for number, (_, budget, drawn) in enumerate(rows)
                for new in drawn
                if len(new) == budget and new[-1] not in (stop_token_ids or ())
            ]
        )

    def _finished(self, rows, strip_prompt, is_single):
        """What `generate` returns of `(prompt, budget, list of new tokens)` for each row."""
        length = max(len(prompt) + budget for prompt, budget, _ in rows)
        ids = [
            new if strip_prompt else np.concatenate([prompt, new])
            for prompt, _, drawn in rows
            for new in drawn
        ]
        outputs = batching.pad_outputs(ids, length)
        if self.preprocessor is None:
            is_alone = is_single and len(ids) == 1
            return {name: array[0] for name, array in outputs.items()} if is_alone else outputs
        text = self.preprocessor.generate_postprocess(outputs)
        return text[0] if is_single and len(text) == 1 else text

    # Compiled functions -----------------------------------------------------------------------

    def make_generate_function(self, call=None):
        """See `T5Gemma2Seq2SeqLM.make_generate_function`."""
        programs = programs_of(self)
        if programs.generate is None:
            programs.generate = functools.partial(self._generate, calls.call_of)
        if call is None:
            return programs.generate
        return functools.partial(self._generate, lambda _: call)

    def _generate(self, call_of, inputs, stop_token_ids=None):
        call = call_of(self)
        stops = None if stop_token_ids is None else tuple(stop_token_ids)

        def make():
            return lambda _, inputs: self.generate_step(inputs, stops, call)

        return program(self, ("generate", stops), make, call, draws=True)((), inputs)

    def prepare(self):
        """Lays weights out for steps; what is in training stays as its optimizer has it."""
        is_training = getattr(self.model.optimizer, "built", False)
        self.model.backbone.decoder.lay_out(is_training=is_training)

    def _encode_function(self, call):
        return lambda _, inputs: self._encode_step(inputs, call)

    def _encode_step(self, inputs, call):
        return decoding.remember(self.model.backbone, inputs, *call.cache)

    # Checks -----------------------------------------------------------------------------------

    def _check(self, batches, limits):
        """Raises what any batch would, before the first one is generated."""
        if self.preprocessor is None:
            return
        rows = [row for _, part in batches for row in part]
        # Prompts are never cut.
        inputs = [row._replace(decoder_text=None) for row in rows]
        self.preprocessor.check_rows(inputs, training=False)
        prompts = [row._replace(encoder_text=None, images=[]) for row in rows if row.decoder_text]
        if prompts:
            self.budgets(prompts, self.rows(prompts)[0], *limits)

    def _check_draws(self, count):
        is_certain = isinstance(self.sampler, (keras_hub.samplers.GreedySampler, BeamSearch))
        if is_certain or is_greedy(self.sampler):
            raise ValueError(
                "`num_return_sequences` above 1 needs a sampler that draws, or the sequences of a "
                f"row are all the same. Received: num_return_sequences={shown(count)} and a "
                f'{type(self.sampler).__name__}. Compile with `sampler="top_p"`, say'
            )

    def stop_token_ids(self, stop_token_ids):
        size = self.model.backbone.config.vocabulary_size
        stop_token_ids = checked(vocabulary_size=size, stop_token_ids=stop_token_ids)
        if stop_token_ids != "auto":
            return stop_token_ids
        if self.preprocessor is None:
            raise ValueError(
                '`stop_token_ids="auto"` needs a preprocessor: its tokenizer knows the end token. '
                "Received: preprocessor=None. Pass the ids, or `None` to go on to `max_length`."
            )
        return (self.preprocessor.tokenizer.end_token_id,)

    def budgets(self, inputs, rows, max_length, max_new_tokens):
        """Per row, how many tokens to generate."""
        if max_new_tokens is not None and max_length is None:
            budgets = [max_new_tokens] * len(rows.prompts)
        else:
            if max_length is None and self.preprocessor is None:
                max_length = np.shape(inputs["decoder_token_ids"])[-1]
            elif max_length is None:
                max_length = self.preprocessor.decoder_sequence_length
                max_new_tokens = batching.NEW_TOKENS
            budgets = [max_length - len(prompt) for prompt in rows.prompts]
            if max_new_tokens is not None:
                budgets = [min(budget, max_new_tokens) for budget in budgets]
        for row, (prompt, budget) in enumerate(zip(rows.prompts, budgets, strict=True)):
            if len(prompt) == 0:
                raise ValueError(
                    "A decoder prompt must have at least one token, the start token. "
                    f"Received: an empty prompt in row {row}."
                )
            if budget < 1:
                raise ValueError(
                    "There must be room for at least one new token. Received: "
                    f"max_length={shown(max_length)}, max_new_tokens={shown(max_new_tokens)}, and "
                    f"in row {row} "
                    f"a decoder prompt of {len(prompt)} tokens. Give a larger limit."
                )
        return budgets


def _check_count(encoded, rows):
    if len(rows.prompts) % len(encoded):
        raise ValueError(
            "There must be as many rows as were encoded, or R times as many. Received: "
            f"{len(rows.prompts)} rows and `encoded` of {len(encoded)} rows"
        )
