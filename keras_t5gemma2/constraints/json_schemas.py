"""JSON schemas as `expressions`. Long by the number of keywords.

What they give is all or a part of what a schema allows, and nothing else.

What is written is compact JSON, with at most one space after a comma or colon; the properties of
an object come in the order of the schema, and no others than it names. Numbers have no exponent.
"""

import json

from keras_t5gemma2.constraints import patterns
from keras_t5gemma2.constraints.expressions import (
    Characters,
    Either,
    Repeated,
    Sequence,
    literal,
    optional,
)
from keras_t5gemma2.messages import shown, shown_names

_SPACE = optional(literal(" "))
# Characters of a string that stand for themselves, and those that a backslash stands before.
_PLAIN = Characters(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)))
_ESCAPED = Sequence((literal("\\"), patterns.expression_of(r'["\\/bfnrt]')))
_CHARACTER = Either((_PLAIN, _ESCAPED))
_DIGITS = patterns.expression_of("[0-9]")
_FRACTION = Sequence((literal("."), Repeated(_DIGITS, 1, None)))
_DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_FORMATS = {
    "date": _DAY,
    "time": rf"{_TIME}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "date-time": rf"{_DAY}T{_TIME}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}"
    r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    "email": r"[a-z0-9]+(\.[a-z0-9]+)*@[a-z0-9]+(\.[a-z0-9]+)+",
}
# Of each type the keywords that are followed.
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}
# What says nothing about a value.
_NOTES = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions", "discriminator"),
}
# Values without a type are nested so deep.
_DEPTH = 2


class RefersToItself(ValueError):
    """What nests to any depth is not for an automaton."""


def checked(schema):
    """A schema as a dict.

    Args:
        schema: dict, or a model of pydantic, whose `model_json_schema` it is.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if not isinstance(schema, dict):
        raise TypeError(
            "`schema` must be a dict or a model of pydantic. Received: "
            f"schema={shown(schema)} (of type {type(schema).__name__})"
        )
    return schema


def expression_of(schema):
    """The expression of JSON texts that a schema, a dict, allows.

    Raises:
        RefersToItself: a part of it contains itself.
        ValueError: it has a keyword that is not followed.
    """
    return _Reader(schema).read(schema)


class _Reader:
    def __init__(self, root):
        self._root, self._open = root, []

    def read(self, schema):
        if schema is False:
            self._refuse("a schema that allows nothing", schema)
        if schema is not True and not isinstance(schema, dict):
            self._refuse("a part that is no schema", schema)
        if schema is True or not {*schema} - _NOTES:
            return _any(_DEPTH)
        for name, read in (("$ref", self._reference), ("allOf", self._all), ("enum", _enum)):
            if name in schema:
                self._check(schema, {name, "type"} if name == "enum" else {name})
                return read(schema[name])
        if "const" in schema:
            self._check(schema, {"const", "type"})
            return _enum([schema["const"]])
        for name in ("anyOf", "oneOf"):
            if name in schema:
                self._check(schema, {name, "type"})
                return self._any_of(name, schema[name])
        return self._typed(schema)

    def _typed(self, schema):
        kinds = schema.get("type")
        if kinds is None:
            found = [kind for kind, words in _OF_TYPE.items() if words & {*schema}]
            kinds = found[:1] or self._refuse("no `type`", schema)
        if isinstance(kinds, list) and len(kinds) > 1:
            known = {kind: {"type", *_OF_TYPE.get(kind, ())} | _NOTES for kind in kinds}
            self._check(schema, set().union(*known.values()))
            alone = [
                {**{k: v for k, v in schema.items() if k in known[kind]}, "type": kind}
                for kind in kinds
            ]
            return Either(tuple(map(self._typed, alone)))
        kind = kinds[0] if isinstance(kinds, list) else kinds
        if kind not in _OF_TYPE:
            self._refuse(f"type {shown(kind)}", schema)
        self._check(schema, {"type", *_OF_TYPE[kind]})
        if kind in ("boolean", "null"):
            return _enum([True, False] if kind == "boolean" else [None])
        made = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
        }
        return made[kind](schema)

    # Combinations

    def _reference(self, path):
        if path in self._open:
            raise RefersToItself(
                "`schema` must not refer to itself: no automaton counts how deep a text is nested. "
                f"Received: {shown(path)} within itself. Write out as many levels as are needed, "
                "or give `constraints.json_schema` the whole"
            )
        self._check_leads_somewhere(path)
        self._open.append(path)
        found = self.read(self._target(path))
        self._open.pop()
        return found

    def _check_leads_somewhere(self, path):
        seen = []
        while path is not None:
            if path in seen:
                self._refuse("a reference to nothing but itself", {"$ref": path})
            seen.append(path)
            target = self._target(path)
            path = target.get("$ref") if isinstance(target, dict) else None

    def _target(self, path):
        """The part of the whole schema that a `$ref` names, by a JSON pointer."""
        target = self._root if isinstance(path, str) and path.startswith("#") else None
        for name in filter(None, str(path).removeprefix("#").split("/")):
            name = name.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        if target is None:
            raise ValueError(f"A `$ref` must point into its own schema. Received: {shown(path)}")
        return target

    def _all(self, schemas):
        if len(schemas) != 1:
            self._refuse("`allOf` of several schemas", schemas)
        return self.read(schemas[0])

    def _any_of(self, name, schemas):
        if name == "oneOf" and not self._are_apart(schemas):
            self._refuse("`oneOf` of schemas that may allow the same value", schemas)
        return Either(tuple(map(self.read, schemas)))

    def _are_apart(self, schemas):
        """Whether types, or constants of a property, tell the schemas apart."""
        if not all(isinstance(schema, dict) for schema in schemas):
            return False
        resolved = [self._resolved(schema) for schema in schemas]
        kinds = [schema.get("type") for schema in resolved]
        kinds = ["number" if kind == "integer" else kind for kind in kinds]
        if all(isinstance(kind, str) for kind in kinds) and len({*kinds}) == len(kinds):
            return True
        for name in resolved[0].get("properties", {}):
            of_name = [schema.get("properties", {}).get(name, {}) for schema in resolved]
            values = [json.dumps(x["const"]) for x in of_name if "const" in x]
            is_required = all(name in schema.get("required", ()) for schema in resolved)
            if is_required and len({*values}) == len(resolved):
                return True
        return False

    def _resolved(self, schema):
        return self._target(schema["$ref"]) if "$ref" in schema else schema

    # Types

    def _object(self, schema):
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", True)
        unknown = [name for name in required if name not in properties]
        if unknown:
            self._refuse(f"`required` of {shown(unknown[0])}, which has no schema", schema)
        pairs = [
            (
                Sequence((literal(_dumped(name)), literal(":"), _SPACE, self.read(value))),
                name in required,
            )
            for name, value in properties.items()
        ]
        if not properties and more is not False:
            pair = Sequence((_string(0, None), literal(":"), _SPACE, self.read(more)))
            return _within("{", _separated(pair, 0, None), "}")
        return _within("{", _in_order(pairs), "}")

    def _array(self, schema):
        first = [self.read(one) for one in schema.get("prefixItems", [])]
        rest = schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if first:
            count = len(first) if most is None else min(most, len(first))
            if least > count or (rest is not False and "items" in schema):
                self._refuse("`prefixItems` with further items", schema)
            pairs = [(one, number < max(least, 1)) for number, one in enumerate(first[:count])]
            # Those that are there are the first ones.
            return _within("[", _prefix(pairs, least), "]")
        if most is not None and most < least:
            self._refuse("`maxItems` below `minItems`", schema)
        if most == 0:
            return literal("[]")
        return _within("[", _separated(self.read(rest), least, most), "]")

    def _string(self, schema):
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        pattern, kind = schema.get("pattern"), _FORMATS.get(schema.get("format"))
        if pattern is None and kind is None:
            return _string(least, most)
        if (pattern is not None and kind is not None) or least or most is not None:
            self._refuse("`pattern` or `format` with another rule of the string", schema)
        return _within(
            '"',
            _escaped(patterns.searched(pattern) if kind is None else patterns.expression_of(kind)),
            '"',
        )

    def _integer(self, schema):
        low, high = _bounds(schema)
        return self._nonempty(_integers(low, high), schema)

    def _number(self, schema):
        low, high = _bounds(schema)
        found = [_integers(low, high)]
        inner = (schema.get("minimum"), schema.get("exclusiveMinimum"))
        inner_high = (schema.get("maximum"), schema.get("exclusiveMaximum"))
        least = max((_ceil(x) for x in inner if x is not None), default=None)
        most = min((_floor(x) for x in inner_high if x is not None), default=None)
        # 2.5 lies between 2 and 3, and -2.5 between -3 and -2; its last digit is not 0.
        above = _integers(0 if least is None else max(least, 0), None if most is None else most - 1)
        below_low = 0 if most is None else max(-most, 0)
        below = _integers(below_low, None if least is None else -least - 1)
        inside = Sequence(
            (literal("."), Repeated(_DIGITS, 0, None), patterns.expression_of("[1-9]"))
        )
        found += [] if above is None else [Sequence((above, inside))]
        found += [] if below is None else [Sequence((literal("-"), below, inside))]
        found = [one for one in found if one is not None]
        return self._nonempty(Either(tuple(found)) if found else None, schema)

    # Errors

    def _nonempty(self, found, schema):
        return (
            self._refuse("a range without numbers that can be written", schema)
            if found is None
            else found
        )

    def _check(self, schema, known):
        unknown = [name for name in schema if name not in known | _NOTES]
        if unknown:
            raise ValueError(
                "`schema` must have keywords that an automaton can follow. Received: "
                f"{shown_names(unknown)} in {shown(schema)}. Leave them out, and check the texts "
                "that come"
            )

    def _refuse(self, what, schema):
        raise ValueError(f"`schema` must not have {what}. Received: {shown(schema)}")


# Values ------------------------------------------------------------------------------------------


def _dumped(value):
    return json.dumps(value, ensure_ascii=False)


def _enum(values):
    return Either(tuple(literal(_dumped(value)) for value in values))


def _within(before, inside, after):
    return Sequence((literal(before), inside, literal(after)))


def _comma():
    return Sequence((literal(","), _SPACE))


def _separated(part, least, most):
    """From `least` to `most` of a part, with commas."""
    more = Repeated(
        Sequence((_comma(), part)), max(least - 1, 0), None if most is None else most - 1
    )
    found = Sequence((part, more))
    return found if least else optional(found)


def _in_order(pairs):
    """Of `(part, is required)`, those that are required and any others, with commas."""
    choices = []
    for place, (part, is_required) in enumerate(pairs):
        rest = [
            Sequence((_comma(), other)) if needed else optional(Sequence((_comma(), other)))
            for other, needed in pairs[place + 1 :]
        ]
        choices.append(Sequence((part, *rest)))
        if is_required:
            return Either(tuple(choices))
    return Either((*choices, literal("")))


def _prefix(pairs, least):
    """At least so many of the first parts, with commas."""
    found = literal("")
    for place, (part, _) in reversed([*enumerate(pairs)]):
        found = Sequence((*([_comma()] if place else []), part, found))
        found = found if place < least else optional(found)
    return found


def _string(least, most):
    return _within('"', Repeated(_CHARACTER, least, most), '"')


def _any(depth):
    """Any value, nested no deeper."""
    number = Sequence((_integers(None, None), optional(_FRACTION)))
    values = [_string(0, None), number, _enum([True, False, None])]
    if depth:
        inner = _any(depth - 1)
        pair = Sequence((_string(0, None), literal(":"), _SPACE, inner))
        values += [_within("[", _separated(inner, 0, None), "]")]
        values += [_within("{", _separated(pair, 0, None), "}")]
    return Either(tuple(values))


# Patterns in strings ------------------------------------------------------------------------------


def _escaped(expression):
    """The expression of texts as they stand in a string of JSON."""
    if isinstance(expression, Characters):
        return _escaped_characters(expression)
    if isinstance(expression, Repeated):
        return expression._replace(part=_escaped(expression.part))
    return expression._replace(parts=tuple(map(_escaped, expression.parts)))


_SHORT = {
    0x22: '\\"',
    0x5C: "\\\\",
    0x08: "\\b",
    0x0C: "\\f",
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
}


def _escaped_characters(characters):
    contains = lambda code: any(a <= code <= b for a, b in characters.ranges)  # noqa: E731
    plain = [
        (max(a, c), min(b, d))
        for a, b in characters.ranges
        for c, d in _PLAIN.ranges
        if max(a, c) <= min(b, d)
    ]
    escaped = [
        literal(_SHORT.get(code, f"\\u{code:04x}"))
        for code in (*range(32), 0x22, 0x5C)
        if contains(code)
    ]
    return Either((*([Characters(tuple(plain))] if plain else []), *escaped))


# Numbers -----------------------------------------------------------------------------------------


def _ceil(x):
    return -int(-x // 1)


def _floor(x):
    return int(x // 1)


def _bounds(schema):
    """The lowest and the highest integer, `None` for no bound."""
    lows = [_ceil(schema["minimum"])] if "minimum" in schema else []
    lows += [_floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highs = [_floor(schema["maximum"])] if "maximum" in schema else []
    highs += [_ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    return max(lows, default=None), min(highs, default=None)


def _integers(low, high):
    """The expression of integers from `low` to `high`; `None` where there are none."""
    if low is not None and high is not None and low > high:
        return None
    found = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        found.append(Sequence((literal("-"), _naturals(least, None if low is None else -low))))
    if high is None or high >= 0:
        found.append(_naturals(0 if low is None else max(low, 0), high))
    return Either(tuple(found))


def _naturals(low, high):
    """The expression of integers from `low` on, at least 0."""
    if high is None:
        digits = len(str(low))
        longer = Sequence((patterns.expression_of("[1-9]"), Repeated(_DIGITS, digits, None)))
        return Either((_naturals(low, 10**digits - 1), longer))
    lengths = range(len(str(low)), len(str(high)) + 1)
    pieces = [(max(low, 10 ** (n - 1) if n > 1 else 0), min(high, 10**n - 1)) for n in lengths]
    return Either(tuple(_of_length(str(a), str(b)) for a, b in pieces))


def _of_length(low, high):
    """The expression of numbers between two of equally many digits."""
    if not low:
        return literal("")
    if low[0] == high[0]:
        return Sequence((literal(low[0]), _of_length(low[1:], high[1:])))
    rest = len(low) - 1
    parts = [Sequence((literal(low[0]), _of_length(low[1:], "9" * rest)))]
    between = [chr(x) for x in range(ord(low[0]) + 1, ord(high[0]))]
    if between:
        digits = Characters(((ord(between[0]), ord(between[-1])),))
        parts.append(Sequence((digits, Repeated(_DIGITS, rest, rest))))
    parts.append(Sequence((literal(high[0]), _of_length("0" * rest, high[1:]))))
    return Either(tuple(parts))
