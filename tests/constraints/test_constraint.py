"""What users make constraints with."""

import pytest

from keras_t5gemma2 import constraints

pytestmark = pytest.mark.once


def test_equal_constraints_have_equal_keys():
    assert constraints.regex("a").key == constraints.regex("a").key != constraints.choice(["a"]).key
    schema = {"type": "integer"}
    assert constraints.json_schema(schema).key == constraints.json_schema(dict(schema)).key
    assert constraints.regex("a", steer=False).steer is False


def test_texts_of_a_choice_are_no_patterns():
    rule = constraints.choice(["a.c", "a.c"]).rule()
    assert rule.step[rule.step[0, ord("a")], ord("b")] < 0


@pytest.mark.parametrize("options", ["yes", [1], None])
def test_options_are_strings(options):
    with pytest.raises(TypeError, match="`options` must be a list of strings"):
        constraints.choice(options)


def test_there_is_at_least_one_option():
    with pytest.raises(ValueError, match="at least one string"):
        constraints.choice([])
