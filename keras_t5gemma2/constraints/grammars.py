"""What only a parser can follow: texts with parts nested in each other to any depth.

llguidance reads the grammar and says, token by token, which ones may come next. No program holds
it: its masks come from Python at each step.
"""

import json

from keras_t5gemma2.messages import cause, shown

# Else, where the text leaves no choice, only those tokens are allowed that a tokenizer would give.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA = ("items", "additionalProperties", "anyOf", "oneOf", "prefixItems")


class Grammar:
    """The texts that a call of `generate` may give, as a grammar of llguidance.

    Args:
        key: tuple of the kind and the text that it was made of.
        source: string, the grammar in the dialect of Lark that llguidance reads.
        name: string, the argument that errors name.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: it is no grammar.

    Example:

    >>> keras_t5gemma2.constraints.grammar('start: "yes" | "(" start ")"')
    Grammar(('grammar', 'start: "yes" | "(" start ")"'))
    """

    def __init__(self, key: tuple, source: str, name: str = "lark") -> None:
        self.key, self.source = key, source + _OPTIONS
        is_wrong, messages = llguidance().LLMatcher.validate_grammar_with_warnings(self.source)
        if is_wrong:
            text = " ".join(messages[0].split())
            raise ValueError(
                f"`{name}` must be a grammar that llguidance reads: {cause(ValueError(text))}. "
                f"Received: {name}={shown(key[1])}"
            )

    def __repr__(self) -> str:
        return f"Grammar({shown(self.key)})"


def grammar(lark: str) -> Grammar:
    """The texts of a context-free grammar, for what nests to any depth.

    It needs the extra `grammar` (`pip install 'keras-t5gemma2[grammar]'`). A parser in Python says
    at each step which tokens may come next, so that tokens are generated one call at a time; use
    `choice`, `regex` or `json_schema` where they can say the same. Unlike these it leads no text to
    an end: one that its budget cuts is no text of the grammar, and `finished` of
    `return_scores=True` is False for it. With beams there must be stop tokens.

    Args:
        lark: string, a grammar in the dialect of Lark that llguidance reads: rules in lower case
            such as `start`, the first one; terminals in upper case, of strings and of regular
            expressions between slashes; `|`, `?`, `*`, `+`, `{2,3}`, `%import common.INT` and
            `%ignore`. Control tokens cannot be named in it.

    Raises:
        TypeError: it is no string.
        ValueError: llguidance does not read it.
        ImportError: llguidance is not installed.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> nested = keras_t5gemma2.constraints.grammar('start: "(" start ")" | /[a-z]+/')
    >>> lm.generate("Spell 42 in German.", constraint=nested, max_new_tokens=16)
    'zweiundvierzig'
    """
    if not isinstance(lark, str):
        raise TypeError(f"`lark` must be a string. Received: lark={shown(lark)}")
    llguidance("`constraints.grammar`")
    return Grammar(("grammar", lark), lark)


def grammar_of_schema(schema):
    """The `Grammar` of JSON that a schema, a dict that refers to itself, allows."""
    llguidance("A schema that refers to itself")
    compact = {**_closed(schema), "x-guidance": {"whitespace_flexible": False}}
    return Grammar(
        ("json_schema", json.dumps(schema)), f"start: %json {json.dumps(compact)}", "schema"
    )


def _closed(schema):
    """The schema with objects that have no other properties than they name."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for name in _SCHEMAS:
        if isinstance(found.get(name), dict):
            found[name] = {key: _closed(part) for key, part in found[name].items()}
    found |= {name: _closed(found[name]) for name in _SCHEMA if name in found}
    if "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def llguidance(what="A grammar"):
    """The library, or an error that says what needs it."""
    try:
        import llguidance as library
    except ImportError as error:
        raise ImportError(
            f"{what} needs llguidance: install it by `pip install 'keras-t5gemma2[grammar]'`"
        ) from error
    return library
