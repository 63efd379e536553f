"""How a call of `generate` asks for its text, as inputs of a program. Long by its errors."""

import dataclasses
import functools
import random
from typing import Any

import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2.arguments import check_flags, check_known
from keras_t5gemma2.constraints import token_automaton
from keras_t5gemma2.constraints.constraint import Constraint
from keras_t5gemma2.constraints.grammars import Grammar
from keras_t5gemma2.constraints.token_grammars import TokenGrammar
from keras_t5gemma2.constraints.word_rules import kept_grammar, kept_rule, of_words
from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.generation.samplers import (
    goes_token_by_token,
    is_greedy,
    take_seed,
    taking_turns,
)
from keras_t5gemma2.generation.strategies import OwnLoop, strategy_of
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer, number

# Of each number whether it is whole, its rule, whether a value obeys it, and what changes nothing.
_NUMBERS = {
    "temperature": (False, "at least 0", lambda x: x >= 0, 1.0),
    "top_k": (True, "at least 0, where 0 is no limit", lambda x: x >= 0, 0),
    "top_p": (False, "above 0 and at most 1", lambda x: 0 < x <= 1, 1.0),
    "min_p": (False, "from 0 to 1", lambda x: 0 <= x <= 1, 0.0),
    "repetition_penalty": (False, "above 0", lambda x: x > 0, 1.0),
    "no_repeat_ngram_size": (True, "at least 0, where 0 forbids nothing", lambda x: x >= 0, 0),
    "seed": (True, "at least 0", lambda x: x >= 0, None),
    "num_beams": (True, "at least 1", lambda x: x >= 1, None),
    "length_penalty": (False, "finite", lambda x: True, None),
}
_OF_ALL_ROWS = ("num_beams", "length_penalty")
# Numbers that a row draws its tokens by, and all that a row has of its own in a program.
DRAW = ("temperature", "top_k", "top_p", "min_p")
OF_ROWS = (*DRAW, "repetition_penalty", "no_repeat_ngram_size")
# What the methods name themselves, for the hints of errors.
_ALL = ("max_length", "max_new_tokens", "stop_token_ids", "strip_prompt", "cross_attention_cache")
_NAMED = {
    "generate": (
        *_ALL,
        "assistant",
        "encoded",
        "num_return_sequences",
        "batch_size",
        "columns",
        "verbose",
    ),
    "stream": (*_ALL, "columns", "verbose"),
    "warmup": ("new_tokens", "batch_size", "prompt_length", "images", "stop_token_ids", "verbose"),
}
OPTIONS = (*_NUMBERS, "stop", "constraint", "bad_words", "logits_processor", "return_scores")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one call; `None` where nothing was said.

    Numbers are a number for all rows, or an array with one for each row.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    repetition_penalty: Any = None
    no_repeat_ngram_size: Any = None
    seed: Any = None
    num_beams: int | None = None
    length_penalty: float | None = None
    stop: tuple = ()
    bad_words: tuple = ()
    logits_processor: tuple = ()
    return_scores: bool = False
    sampler: Any = None  # in the place of the generator's; `None` where nothing needs another
    words: Any = None  # `token_automaton.Automaton` of `stop` and `bad_words`
    constraint: Any = None  # `token_automaton.Automaton`, or `TokenGrammar`
    size: int = 0  # of the model's vocabulary

    @property
    def has_rules(self):
        """Whether the call needs anything that the generator's sampler does not do alone."""
        return self.sampler is not None

    @property
    def is_stepwise(self):
        """Whether Python says at each step which tokens may come next."""
        return isinstance(self.constraint, TokenGrammar)

    @property
    def keeps_logits(self):
        """Whether tokens are chosen by the model's own logits, which no penalty or rule changes."""
        numbers = ("repetition_penalty", "no_repeat_ngram_size")
        given = [(name, getattr(self, name)) for name in numbers]
        changes = [
            value is not None and np.any(value != _NUMBERS[name][3]) for name, value in given
        ]
        rules = self.bad_words or self.constraint is not None or self.logits_processor
        return not any(changes) and not rules

    @property
    def rules(self):
        """The automata and the grammar of the call that may end a text."""
        return [rule for rule in (self.words, self.constraint) if rule is not None]

    @property
    def draws(self):
        """Whether the sequences of a row differ from each other."""
        return isinstance(self.sampler, PerCall) and bool(np.any(self.temperature > 0))

    def check_rows(self, count):
        """Raises where a number for each row comes for another count of rows."""
        for name in _NUMBERS:
            value = getattr(self, name)
            if np.ndim(value) and len(value) != count:
                raise ValueError(
                    f"`{name}` must be a number, or one for each of the {count} rows. Received: "
                    f"{name}={shown(value.tolist())}, {len(value)} numbers"
                )

    def check_assistant(self):
        """Raises where tokens are not those of greedy choice, which an assistant proposes."""
        names = [field.name for field in dataclasses.fields(self)]
        mine = ("stop", "seed", "sampler", "words", "size")
        if self.num_beams == 1 or np.all(self.temperature == 0):
            mine += ("num_beams", "temperature")
        given = [
            name
            for name in names
            if name not in mine
            and getattr(self, name) is not None
            and not (isinstance(getattr(self, name), (tuple, bool)) and not getattr(self, name))
        ]
        if given:
            value = "..." if given[0] == "constraint" else shown(getattr(self, given[0]))
            raise ValueError(
                "`assistant` goes with `stop` and `seed` alone: what is proposed and checked is "
                f"the greedy text. Received: {given[0]}={value}"
            )

    def arrays(self, numbers, times, budgets, room):
        """Dict of the inputs of a program.

        Args:
            numbers: the numbers of the rows of a batch in the call.
            times: int. Sequences for each of them.
            budgets: list of ints. For each sequence the tokens that it may have.
            room: int. New tokens of the row that has most, rounded up.
        """

        of_words = token_automaton.anything(self.size) if self.words is None else self.words
        exponent = 1.0 if self.length_penalty is None else self.length_penalty
        is_automaton = self.constraint is not None and not self.is_stepwise
        constraint = {"constraint": self.constraint} if is_automaton else {}
        return {
            **constraint,
            **self.numbers(numbers, times, len(budgets)),
            "length_penalty": np.asarray(exponent, "float32"),
            "draws": self._draws(numbers, times, room),
            "budget": np.asarray(budgets, "int32"),
            "words": of_words,
        }

    def numbers(self, numbers, times, count):
        """Dict of the numbers of `OF_ROWS`, each a (count, 1) array.

        Args:
            numbers: as `arrays` has them; so has it `times`.
            times: int.
            count: int. Sequences of all rows.
        """
        found = {}
        for name in OF_ROWS:
            is_whole, _, _, neutral = _NUMBERS[name]
            value = getattr(self, name)
            value = neutral if value is None else value
            value = np.asarray(value)[np.asarray(numbers)] if np.ndim(value) else value
            found[name] = _column(value, "int32" if is_whole else "float32", count, times)
        top_k = found["top_k"]
        found["top_k"] = np.where(top_k == 0, np.iinfo("int32").max, top_k).astype("int32")
        return found

    def _draws(self, numbers, times, room):
        """(sequences, room) float32 from 0 to below 1: those of a row are its own."""
        draws = []
        for row in numbers:
            is_of_row = np.ndim(self.seed) > 0
            seed = [int(self.seed[row]), 0] if is_of_row else [int(self.seed), int(row)]
            for sequence in range(times):
                generator = np.random.default_rng([*seed, sequence])
                draws.append(generator.random(room, "float32"))
        return np.stack(draws)


def settings_of(generator, options, stop_token_ids, function="generate", known=OPTIONS):
    """The `Settings` of the options of a call that have a value.

    Args:
        generator: `Generator`.
        options: dict of what `function` does not name itself.
        stop_token_ids: tuple of ints, or `None`.
        function: string, the name of the method.
        known: names of the options that it has.

    Raises:
        TypeError: an option is unknown, and the message says which is meant; or of a wrong type.
        ValueError: a value is out of range, or does not go with another.
    """
    check_known(function, options, (*_NAMED[function], *known))
    given = {name: value for name, value in options.items() if value is not None}
    checked = {name: _number(name, given[name]) for name in _NUMBERS if name in given}
    checked |= {
        name: _strings(name, given[name]) for name in ("stop", "bad_words") if name in given
    }
    if "logits_processor" in given:
        checked["logits_processor"] = _processors(given["logits_processor"])
    if "return_scores" in given:
        check_flags(return_scores=given["return_scores"])
        checked["return_scores"] = bool(given["return_scores"])
    settings = Settings(**checked, size=generator.model.backbone.config.vocabulary_size)
    if set(given) <= {"return_scores"}:
        return settings
    if "constraint" in given:
        constraint = _constraint(generator.model, given["constraint"], stop_token_ids)
        settings = dataclasses.replace(settings, constraint=constraint)
    if settings.stop or settings.bad_words:
        words = of_words(generator.model, settings.stop, settings.bad_words)
        settings = dataclasses.replace(settings, words=words)
    return _with_sampler(settings, generator.sampler)


# How tokens are chosen ---------------------------------------------------------------------------


def _with_sampler(settings, sampler):
    """The settings with what chooses tokens, and with all numbers that it needs."""
    given = [name for name in DRAW if getattr(settings, name) is not None]
    beams = settings.num_beams
    if beams is None and not given and type(sampler) is BeamSearch:
        beams = sampler.num_beams
    if beams is not None and beams > 1:
        return _with_beams(settings, sampler, beams, given)
    if settings.length_penalty is not None:
        raise ValueError(
            "`length_penalty` needs beams, whose lengths it compares. Received: length_penalty="
            f"{shown(settings.length_penalty)}, num_beams={shown(beams)}. Give `num_beams` above 1"
        )
    if settings.seed is None:
        settings = dataclasses.replace(settings, seed=_fresh_seed(sampler, given))
    if given:
        zero = 1.0 if settings.temperature is None else settings.temperature
        return dataclasses.replace(settings, temperature=np.float32(zero), sampler=PerCall())
    if beams == 1 or is_greedy(sampler) or getattr(sampler, "temperature", 1.0) == 0:
        return dataclasses.replace(settings, temperature=np.float32(0), sampler=PerCall())
    if (of_sampler := _of_sampler(sampler)) is not None:
        return dataclasses.replace(settings, **of_sampler, sampler=PerCall())
    name = "constraint" if settings.constraint is not None else "bad_words"
    is_own = isinstance(strategy_of(sampler), OwnLoop)
    if settings.is_stepwise:
        is_own = not goes_token_by_token(sampler)
    if getattr(settings, name) and is_own:
        raise ValueError(
            f"`{name}` needs a sampler that decides on one token after another. Received: sampler="
            f"{type(sampler).__name__}. Give `temperature`, say, or compile with another sampler"
        )
    return dataclasses.replace(settings, sampler=sampler)


def _with_beams(settings, sampler, beams, given):
    if given:
        raise ValueError(
            f"`{given[0]}` does not go with beams, which draw nothing. Received: num_beams="
            f"{beams}, {given[0]}={shown(getattr(settings, given[0]))}. Leave one of the two out"
        )
    own = sampler.get_config() if type(sampler) is BeamSearch else {}
    exponent = settings.length_penalty
    exponent = own.get("length_penalty", 1.0) if exponent is None else exponent
    # Of programs, which take the exponent as an input, one serves for all.
    is_fixed = own.get("early_stopping") == "never"
    changes = {"num_beams": beams, "length_penalty": exponent if is_fixed else 1.0}
    if settings.is_stepwise and not settings.constraint.stop_token_ids:
        raise ValueError(
            "`constraint` of a grammar needs stop tokens with beams, which end by them. Received: "
            f'num_beams={beams} and no `stop_token_ids`. Leave them at "auto"'
        )
    search = _search(**{**own, **changes, "return_all_beams": False})
    seed = 0 if settings.seed is None else settings.seed
    return dataclasses.replace(settings, sampler=search, length_penalty=exponent, seed=seed)


@functools.lru_cache(32)
def _search(**config):
    """A `BeamSearch`, the same one for the same configuration, as are its programs."""
    return BeamSearch(**config)


def _of_sampler(sampler):
    """The settings that do what a drawing sampler of keras-hub does; `None` for any other."""
    temperature = {"temperature": np.float32(getattr(sampler, "temperature", 1.0))}
    if type(sampler) is keras_hub.samplers.RandomSampler:
        return temperature
    if type(sampler) is keras_hub.samplers.TopKSampler:
        return {**temperature, "top_k": sampler.k}
    if type(sampler) is keras_hub.samplers.TopPSampler:
        return {**temperature, "top_p": sampler.p, "top_k": sampler.k or 0}
    return None


def _fresh_seed(sampler, given):
    """A seed that follows from that of the sampler, or from `keras.utils.set_random_seed`."""
    if not given and _of_sampler(sampler) is not None:
        take_seed(sampler)
        with taking_turns(sampler):
            low, high = ops.convert_to_numpy(sampler.seed_generator.next()).astype("uint32")
        return (int(high) << 16 ^ int(low)) % 2**31
    return random.getrandbits(31)


# Checks ------------------------------------------------------------------------------------------


def _number(name, value):
    """A number, or an array with one for each row."""
    is_whole, rule, obeys, _ = _NUMBERS[name]
    is_one = np.ndim(value) == 0 or isinstance(value, (str, bytes))
    values = [value] if is_one else [*value]
    found = [integer(one) if is_whole else number(one) for one in values]
    kind = "an integer" if is_whole else "a number"
    more = "" if name in _OF_ALL_ROWS else ", or one for each row"
    if None in found or (name in _OF_ALL_ROWS and not is_one):
        raise TypeError(f"`{name}` must be {kind}{more}. Received: {name}={shown(value)}")
    wrong = [one for one in found if not np.isfinite(one) or not obeys(one)]
    if wrong or not found:
        raise ValueError(f"`{name}` must be {kind} {rule}{more}. Received: {name}={shown(value)}")
    return found[0] if is_one else np.array(found)


def _constraint(model, value, stop_token_ids):
    """The `token_automaton.Automaton` of a `Constraint`, or the `TokenGrammar` of a `Grammar`."""
    if isinstance(value, Grammar):
        return kept_grammar(model, value, tuple(stop_token_ids or ()))
    if not isinstance(value, Constraint):
        raise TypeError(
            "`constraint` must be one of `keras_t5gemma2.constraints`, such as `regex(...)`. "
            f"Received: constraint={shown(value)}"
        )
    stops = tuple(stop_token_ids or ())
    found = kept_rule(model, "`constraint`", value.key, value.rule, False, stops)
    if found.distance[0] >= token_automaton.FAR:
        raise ValueError(
            "`constraint` must allow a text that the vocabulary can spell. Received: "
            f"constraint={value}"
        )
    steered = found.distance if value.steer else np.zeros_like(found.distance)
    return found._replace(distance=steered)


def _strings(name, value):
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(x, str) for x in values):
        raise TypeError(
            f"`{name}` must be a string or a list of strings. Received: {name}={shown(value)}"
        )
    if "" in values:
        raise ValueError(
            f"`{name}` must be strings of at least one character. Received: {name}={shown(value)}"
        )
    return tuple(dict.fromkeys(values))


def _processors(value):
    values = [value] if callable(value) else value
    if not isinstance(values, (list, tuple)) or not all(map(callable, values)):
        raise TypeError(
            "`logits_processor` must be a list of functions of ids and logits. Received: "
            f"logits_processor={shown(value)}"
        )
    return tuple(values)


def _column(value, dtype, rows, times):
    value = np.asarray(value, dtype)
    value = np.repeat(value, times) if value.ndim else np.full(rows, value)
    return value[:, None]
