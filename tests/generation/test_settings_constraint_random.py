"""Random schemas and patterns under random weights: each text parses, or was cut by its budget."""

import json
import re

import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2 import constraints

pytestmark = [pytest.mark.once, pytest.mark.slow]
ATOMS = ["a", "the", r"\d", "[a-f]", r"\w", "é", "[^x]", ".", "(?:yes|no)", "-"]


def random_pattern(rng, depth=2):
    parts = []
    for _ in range(rng.integers(1, 4)):
        inner = depth and rng.random() < 0.3
        part = f"(?:{random_pattern(rng, depth - 1)})" if inner else str(rng.choice(ATOMS))
        counted = (
            ""
            if len(part) > 1 and part.isalpha()
            else str(rng.choice(["", "", "?", "*", "{1,3}", "+"]))
        )
        parts.append(part + counted)
    found = "".join(parts)
    return found if rng.random() < 0.7 or not depth else f"{found}|{random_pattern(rng, 0)}"


def random_schema(rng, depth=2):
    kind = rng.choice(["string", "integer", "boolean", "enum", "number"] + ["array", "object"] * 2)
    if depth == 0 or kind in ("boolean", "integer", "enum", "string", "number"):
        low = int(rng.integers(-50, 50))
        return [
            {"type": "string", "maxLength": int(rng.integers(1, 6))},
            {"type": "integer", "minimum": low, "maximum": low + int(rng.integers(0, 900))},
            {"type": "boolean"},
            {"enum": ["cat", 5, None, True][: int(rng.integers(1, 5))]},
            {"type": "number", "minimum": 0},
        ][int(rng.integers(5))]
    if kind == "array":
        items = random_schema(rng, depth - 1)
        return {"type": "array", "items": items, "maxItems": int(rng.integers(1, 4))}
    names = ["a", "name", "é", "x y"][: int(rng.integers(1, 5))]
    properties = {name: random_schema(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required}


def test_texts_of_random_schemas_and_patterns_parse():
    jsonschema = pytest.importorskip("jsonschema")
    lm, rng, ended = small_task(), np.random.default_rng(0), []
    refused = []
    for number in range(200):
        is_schema = number % 2
        rule = random_schema(rng) if is_schema else random_pattern(rng)
        constraint = (constraints.json_schema if is_schema else constraints.regex)(rule)
        try:
            constraint.rule()
        except ValueError as error:
            assert "at most 20000 states" in str(error)
            refused.append(rule)
            continue
        found = lm.generate(
            "the cat",
            constraint=constraint,
            temperature=2.0,
            seed=number,
            max_new_tokens=96 if is_schema else 32,
            return_scores=True,
        )
        ended.append(found.finished)
        if not found.finished:
            continue
        if is_schema:
            jsonschema.validate(json.loads(found.texts), rule)
        else:
            assert re.fullmatch(rule, found.texts), (rule, found.texts)
    assert np.mean(ended) >= 0.5
    assert len(refused) <= 5
