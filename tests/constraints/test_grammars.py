"""Grammars as users give them: what is read, and what is refused."""

import json
import sys

import pytest

from keras_t5gemma2 import constraints
from keras_t5gemma2.constraints import grammars

pytestmark = pytest.mark.once
TREE = {
    "$defs": {
        "T": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/T"}},
            },
            "required": ["v", "kids"],
        }
    },
    "$ref": "#/$defs/T",
}


def test_equal_grammars_have_equal_keys():
    first, second = (constraints.grammar('start: "a"') for _ in range(2))
    assert first.key == second.key != constraints.grammar('start: "b"').key
    assert constraints.json_schema(TREE).key == constraints.json_schema(dict(TREE)).key


def test_schemas_that_refer_to_themselves_are_grammars():
    assert isinstance(constraints.json_schema(TREE), constraints.Grammar)
    own = {"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}
    assert isinstance(constraints.json_schema(own), constraints.Grammar)
    flat = {"type": "object", "properties": {"v": {"type": "integer"}}}
    assert isinstance(constraints.json_schema(flat), constraints.Constraint)


def test_objects_of_a_recursive_schema_have_no_other_properties():
    first, *_ = constraints.json_schema(TREE).source.splitlines()
    source = json.loads(first.removeprefix("start: %json "))
    assert source["$defs"]["T"]["additionalProperties"] is False
    assert "additionalProperties" not in TREE["$defs"]["T"]


def test_models_of_pydantic_may_refer_to_themselves():
    pydantic = pytest.importorskip("pydantic")

    class Node(pydantic.BaseModel):
        kids: list["Node"]

    assert isinstance(constraints.json_schema(Node), constraints.Grammar)


@pytest.mark.parametrize(
    ("lark", "message"),
    [
        ("start: b", "unknown name: \"b\" .* Received: lark='start: b'"),
        ("start: /[/", "unclosed character class"),
        ("", "no start rule found"),
        ("x: y" * 3000, "Received: lark='x: yx"),
    ],
)
def test_what_is_no_grammar_is_refused(lark, message):
    with pytest.raises(ValueError, match=message) as error:
        constraints.grammar(lark)
    assert len(str(error.value)) < 500


def test_a_grammar_is_a_string():
    with pytest.raises(TypeError, match="`lark` must be a string. Received: lark=5"):
        constraints.grammar(5)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#", "$defs": {}}])
def test_references_must_lead_somewhere(schema):
    with pytest.raises(ValueError, match="a reference to nothing but itself"):
        constraints.json_schema(schema)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"constraints.grammar`.*keras-t5gemma2\[grammar\]"):
        constraints.grammar('start: "a"')
    with pytest.raises(ImportError, match=r"refers to itself.*keras-t5gemma2\[grammar\]"):
        constraints.json_schema(TREE)
    assert constraints.json_schema({"type": "null"}).rule() is not None
    with pytest.raises(ImportError):
        grammars.llguidance()
