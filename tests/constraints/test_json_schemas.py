"""JSON schemas: texts of their automata parse and validate."""

import json
import re

import numpy as np
import pytest
from byte_texts import accepts

from keras_t5gemma2.constraints import json_schemas
from keras_t5gemma2.constraints.byte_automaton import DEAD
from keras_t5gemma2.constraints.expressions import automaton_of

pytestmark = pytest.mark.once


def walks(found, rng, count=30, most=60):
    """Texts of random walks, led to an end after so many bytes."""
    far = 10**6
    distance = np.where(found.accepts, 0, far)
    for _ in range(len(distance)):
        distance = np.minimum(distance, np.append(distance, far)[found.step].min(axis=1) + 1)
    for _ in range(count):
        state, text = 0, b""
        while not (found.accepts[state] and rng.random() < 0.4):
            following = np.flatnonzero(found.step[state] != DEAD)
            if not following.size:
                break
            if len(text) > most:
                after = distance[found.step[state, following]]
                following = following[after == after.min()]
            byte = int(rng.choice(following))
            state, text = found.step[state, byte], text + bytes([byte])
        yield text.decode()


SCHEMAS = [
    {"type": "string", "minLength": 1, "maxLength": 3},
    {"type": "string", "pattern": "^[a-z]+\\d$"},
    {"type": "string", "pattern": 'a["\\\\\\n]'},
    {"type": "string", "pattern": "(?i)^ab$"},
    {"type": "string", "pattern": "^a+|b{2}$"},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": -17, "exclusiveMaximum": 1305},
    {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"type": "number", "exclusiveMinimum": 99},
    {"type": ["integer", "null"], "minimum": 5},
    {"enum": ["a", 'é"', 3, None, [1, {"a": 2}]]},
    {"const": {"q": "x\n"}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "integer"}], "items": False},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"$ref": "#/$defs/B"}, "c": {"const": 1}},
        "required": ["b"],
        "$defs": {"B": {"anyOf": [{"type": "boolean"}, {"enum": ["x"]}]}},
    },
    {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    {},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_texts_parse_and_validate(schema, rng):
    jsonschema = pytest.importorskip("jsonschema")
    for text in walks(automaton_of(json_schemas.expression_of(schema)), rng):
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 9), (-15, 7), (95, 1203), (-120, -7), (5, None), (None, -3)]
)
def test_integers_are_exactly_those_between_their_bounds(low, high):
    bounds = {"minimum": low, "maximum": high}
    schema = {"type": "integer", **{k: v for k, v in bounds.items() if v is not None}}
    found = automaton_of(json_schemas.expression_of(schema))
    for number in range(-1300, 1300):
        is_inside = (low is None or number >= low) and (high is None or number <= high)
        assert accepts(found, str(number)) == is_inside, number
    assert not accepts(found, "05") and not accepts(found, "")


def test_properties_may_be_missing_and_keep_their_order():
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}},
        "required": ["b"],
    }
    found = automaton_of(json_schemas.expression_of(schema))
    for text, is_right in (
        ('{"b":2}', True),
        ('{"a": 1, "b": 2,"c":3}', True),
        ('{"b": 2, "c": 3}', True),
        ('{"a": 1, "c": 3}', False),
        ('{"b": 2, "a": 1}', False),
        ("{}", False),
    ):
        assert accepts(found, text) == is_right, text


def test_models_of_pydantic_are_their_schemas(rng):
    pydantic = pytest.importorskip("pydantic")

    class Pet(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=4)
        age: int | None = None

    class Owner(pydantic.BaseModel):
        pets: list[Pet] = pydantic.Field(max_length=2)

    for text in walks(automaton_of(json_schemas.expression_of(json_schemas.checked(Owner))), rng):
        Owner.model_validate_json(text)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": False}, "type": "object"}, "a schema that allows nothing"),
        ({"items": ["a"], "type": "array"}, "a part that is no schema"),
        ({"$ref": "#/$defs/none"}, "Received: '#/$defs/none'"),
        ({"$ref": "other.json"}, "Received: 'other.json'"),
        ({"$ref": "#"}, "a reference to nothing but itself"),
        ({"type": "array", "items": {"$ref": "#"}}, "must not refer to itself"),
        ({"oneOf": [True, {"type": "null"}]}, "`oneOf` of schemas that may allow the same"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "integer", "multipleOf": 3}, "'multipleOf'"),
        ({"$ref": "#", "$defs": {}}, "a reference to nothing but itself"),
        ({"$ref": "#/$defs/B"}, "must point into its own schema"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "a range without numbers"),
        ({"allOf": [{}, {}]}, "`allOf` of several schemas"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "`oneOf` of schemas"),
        ({"type": "strnig"}, "type 'strnig'"),
        ({"type": "object", "required": ["a"]}, "`required` of 'a'"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "with another rule"),
    ],
)
def test_what_is_not_followed_is_refused(schema, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        json_schemas.expression_of(schema)


def test_what_is_no_schema_is_refused():
    with pytest.raises(TypeError, match="schema='object'"):
        json_schemas.checked("object")


def test_references_are_json_pointers():
    schema = {"$defs": {"a/b~c": {"const": 5}}, "$ref": "#/$defs/a~1b~0c"}
    assert accepts(automaton_of(json_schemas.expression_of(schema)), "5")
