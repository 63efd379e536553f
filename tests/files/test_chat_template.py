"""Chat templates in the files of a checkpoint."""

import json

import pytest

from keras_t5gemma2.files.chat_template import TEMPLATE_FILE, read_template

pytestmark = pytest.mark.once


def test_a_file_of_its_own_goes_before_all_others(tmp_path):
    assert read_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert read_template(tmp_path) == "old"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
    assert read_template(tmp_path) == "older"
    (tmp_path / TEMPLATE_FILE).write_bytes("{{ 'é' }}\r\n".encode())
    assert read_template(tmp_path) == "{{ 'é' }}\r\n"


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, None),
        ([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "tool_use", "template": "a"}], None),
    ],
)
def test_of_several_templates_the_default_is_taken(tmp_path, value, want):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    assert read_template(tmp_path) == want


@pytest.mark.parametrize(
    "value", [7, {"default": "a"}, [{"name": "default", "template": 7}], ["a"]]
)
def test_what_is_no_template_is_refused(tmp_path, value):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ValueError, match=r"`chat_template` of .*tokenizer_config.json must be"):
        read_template(tmp_path)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / TEMPLATE_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{TEMPLATE_FILE} must be text in UTF-8: "):
        read_template(tmp_path)
    (tmp_path / TEMPLATE_FILE).write_bytes(b" " * 4_000_001)
    with pytest.raises(ValueError, match="at most 4000000 bytes. Received: 4000001"):
        read_template(tmp_path)
