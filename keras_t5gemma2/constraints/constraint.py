"""What a text must look like, independent of any vocabulary."""

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from keras_t5gemma2.constraints import json_schemas, patterns
from keras_t5gemma2.constraints.byte_automaton import ByteAutomaton
from keras_t5gemma2.constraints.expressions import Either, automaton_of, literal
from keras_t5gemma2.constraints.grammars import Grammar, grammar_of_schema
from keras_t5gemma2.messages import shown


class Constraint:
    """The texts that a call of `generate` may give, as an automaton over bytes.

    Args:
        key: hashable, equal where the texts are the same.
        expression: function without arguments that gives the expression of the texts.
        steer: bool. Whether, near the end of its budget, a text is led to an end.

    Example:

    >>> keras_t5gemma2.constraints.choice(["yes", "no"])
    Constraint(('choice', ('yes', 'no')))
    """

    def __init__(self, key: Hashable, expression: Callable[[], Any], steer: bool = True) -> None:
        self.key, self.steer = key, bool(steer)
        self._expression = expression

    def rule(self) -> ByteAutomaton:
        """The `ByteAutomaton` of the texts.

        Example:

        >>> keras_t5gemma2.constraints.choice(["yes", "no"]).rule().step.shape
        (5, 256)
        """
        return automaton_of(self._expression())

    def __repr__(self) -> str:
        return f"Constraint({shown(self.key)})"


def choice(options: Sequence[str], *, steer: bool = True) -> Constraint:
    """One of several texts.

    Args:
        options: list of strings.
        steer: bool. Whether, near the end of its budget, a text is led to the nearest end.

    Raises:
        TypeError: they are no strings.
        ValueError: there are none.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> options = keras_t5gemma2.constraints.choice(["vierzig", "zweiundvierzig"])
    >>> lm.generate("Spell 42 in German.", constraint=options, max_new_tokens=16)
    'zweiundvierzig'
    """
    is_list = isinstance(options, (list, tuple))
    if not is_list or not all(isinstance(option, str) for option in options):
        raise TypeError(f"`options` must be a list of strings. Received: options={shown(options)}")
    if not options:
        raise ValueError("`options` must be at least one string. Received: options=[]")
    options = tuple(dict.fromkeys(options))
    return Constraint(("choice", options), lambda: Either(tuple(map(literal, options))), steer)


def regex(pattern: str, *, steer: bool = True) -> Constraint:
    """The texts that `re.fullmatch(pattern, text)` matches.

    Args:
        pattern: string, a regular expression of characters, classes, groups, alternatives and
            repetitions. `^` and `$` may stand where the text starts and ends, and flags such as
            `(?i)` and `(?s)` at its start or for a group, as `(?i:...)`.
        steer: bool. Whether, near the end of its budget, a text is led to the nearest end.

    Raises:
        TypeError: it is no string.
        ValueError: it is no regular expression, or looks around or back.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> date = keras_t5gemma2.constraints.regex(r"[0-9]{1,2} [a-z]+ [0-9]{4}")
    >>> lm.generate("Write 2026-12-17 in Dutch.", constraint=date, max_new_tokens=16)
    '17 december 2026'
    """
    expression = patterns.expression_of(pattern)
    return Constraint(("regex", pattern), lambda: expression, steer)


def json_schema(schema: Any, *, steer: bool = True) -> Constraint | Grammar:
    """JSON that a schema allows.

    The text is compact, with at most one space after a comma or a colon; properties come in the
    order of the schema, those that are not required may be missing, and there are no others than
    it names. Numbers have no exponent, and values without a type are nested at most 2 deep.

    A schema that refers to itself, such as that of a tree, is followed as a `grammar` is: it needs
    that extra, knows more keywords, and leads no text to an end.

    Args:
        schema: dict, or a model of pydantic. It may use types, `enum`, `const`, `anyOf`, `oneOf`
            of schemas that are apart, `$ref`, lengths, bounds, `pattern` and `format`.
        steer: bool. Whether, near the end of its budget, a text is led to the nearest end.

    Raises:
        TypeError: it is neither.
        ValueError: it has a keyword that is not followed.
        ImportError: it refers to itself, and the extra `grammar` is not installed.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    >>> constraint = keras_t5gemma2.constraints.json_schema(schema)
    >>> import json
    >>> text = lm.generate("Spell 42 in German.", constraint=constraint, max_new_tokens=16)
    >>> list(json.loads(text))
    ['n']
    """
    schema = json_schemas.checked(schema)
    try:
        expression = json_schemas.expression_of(schema)
    except json_schemas.RefersToItself:
        return grammar_of_schema(schema)
    return Constraint(("json_schema", json.dumps(schema)), lambda: expression, steer)
