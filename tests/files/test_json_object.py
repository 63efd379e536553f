"""JSON objects in files, and files that hold none."""

import pytest

from keras_t5gemma2.files import json_object
from keras_t5gemma2.files.json_object import read_json

pytestmark = pytest.mark.once


def test_an_object_comes_back(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, null, "Straße"]}', encoding="utf-8")
    assert read_json(str(tmp_path), "a.json") == {"a": [1, None, "Straße"]}
    (tmp_path / "a.json").write_text("{}")
    assert read_json(tmp_path, "a.json") == {}


def test_json_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold config.json. Received: .*config.json"):
        read_json(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json must be JSON"):
        read_json(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("[3]")
    with pytest.raises(ValueError, match=r"config.json must hold an object. Received: \[3\]"):
        read_json(tmp_path, "config.json")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_bytes_that_are_no_json(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.json must be JSON: "):
        read_json(tmp_path, "a.json")


def test_a_file_is_not_read_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(json_object, "_MOST_BYTES", 8)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path, "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text('{"a": 1} ')
    with pytest.raises(ValueError, match="not be larger than 8 bytes. Received: 9"):
        read_json(tmp_path, "a.json")


def test_a_directory_is_no_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold a.json"):
        read_json(tmp_path, "a.json")
