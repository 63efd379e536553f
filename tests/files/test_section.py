"""Sections of a config file: defaults, the names of keys, and values that are checked."""

import math

import pytest
from tiny_models import LOCAL

from keras_t5gemma2.config import AttentionConfig
from keras_t5gemma2.files.section import Section

pytestmark = pytest.mark.once


def section(value, name="encoder"):
    """Of one key, `key`, whose default is 3."""
    return Section(name, {"key": value}, {"key": 3})


def test_values_and_defaults():
    assert section(5)["key"] == 5 and section(None)["key"] is None
    assert Section("", {"more": 1}, {"key": 3})["key"] == 3
    with pytest.raises(KeyError):  # a key without a default is a mistake of ours
        Section("", {"more": 1}, {"key": 3})["more"]
    for value in (None, [], "text"):
        with pytest.raises(ValueError, match="`encoder` of config.json must be an object"):
            Section("encoder", value, {})
        with pytest.raises(ValueError, match="^config.json must be an object"):
            Section("", value, {})


def test_of_two_names_for_a_token_the_newer_wins():
    defaults = {"image_token_index": 7}
    assert Section("", {}, defaults).token_id("image_token_index") == 7
    values = {"image_token_index": 8}
    assert Section("", values, defaults).token_id("image_token_index") == 8
    values["image_token_id"] = 9
    assert Section("", values, defaults).token_id("image_token_index") == 9


def test_parts_have_the_whole_name():
    whole = Section("", {"a": {"b": {"size": 0}}, "none": None}, {"a": None, "none": None})
    part = whole.section("a", {"b": None}).section("b", {"size": 1})
    with pytest.raises(ValueError, match="`a.b.size` of config.json must be an integer from 1"):
        part.size("size")
    assert whole.section("none", {"size": 4}).size("size") == 4
    assert whole.subsection("x", {"size": 2}, {"size": 4}).name == "x"
    with pytest.raises(ValueError, match=r"`x` of config.json must be an object. Received: \[\]"):
        whole.subsection("x", [], {})


@pytest.mark.parametrize(
    ("check", "sound", "unsound"),
    [
        (lambda s: s.size("key", 4), [1, 4], [0, 5, -1, 2.0, True, "2", None]),
        (lambda s: s.token_id("key"), [0, 10**9], [-1, 1.0, False, None, 10**400]),
        (
            lambda s: s.positive("key"),
            [1, 0.5],
            [0, -1, 1e-38, 1e300, math.inf, math.nan, True, "1", None],
        ),
        (lambda s: s.positive("key", or_none=True), [None, 1], [0, "1"]),
        (lambda s: s.rate("key"), [0, 0.5], [1, -0.1, math.nan, False, None]),
        (lambda s: s.must_be("key", "yes") or "yes", ["yes"], ["no", None]),
        (lambda s: s.optional_object("key"), [{"a": 1}], [[], 0, ""]),
    ],
    ids=["size", "token id", "positive", "positive or none", "rate", "must be", "object"],
)
def test_values_are_checked_as_they_are_taken(check, sound, unsound):
    for value in sound:
        assert check(section(value)) == value
    for value in unsound:
        with pytest.raises(ValueError, match="`encoder.key` of config.json must be .*: key="):
            check(section(value))
    assert section(None).optional_object("key") == {}


def test_an_error_says_whether_the_file_has_the_value():
    with pytest.raises(ValueError, match="key=0$"):
        section(0).size("key")
    with pytest.raises(ValueError, match="key=3, the default where the file says nothing$"):
        Section("", {}, {"key": 3}).must_be("key", 4)


def test_rules_of_a_config_speak_of_their_section():
    sizes = {"num_heads": 6, "num_kv_heads": 3, "head_dim": 8, "window": 5}
    assert section(1).make(AttentionConfig, **sizes) == LOCAL
    with pytest.raises(ValueError, match="^`encoder` of config.json: `num_heads` must be a mul"):
        section(1).make(AttentionConfig, **{**sizes, "num_kv_heads": 4})
