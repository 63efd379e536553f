"""The page needs nothing but itself."""

import re

import pytest

from keras_t5gemma2.serving.page import headers_of, page

pytestmark = pytest.mark.once


def test_the_name_is_text():
    found = page("<script>alert(1)</script>")
    assert "<script>alert" not in found and "&lt;script&gt;alert(1)" in found


def test_no_other_resource():
    found = page("tiny")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?!#|data:|blob:)[^\"'>\s]", found)
    assert not re.search(r"https?://|@import|url\((?!data:)", found)


def test_the_script_that_may_run_is_that_of_the_page():
    policy = headers_of(page("tiny"))["content-security-policy"]
    assert "script-src 'sha256-" in policy and "unsafe" not in policy
    assert headers_of(page("other"))["content-security-policy"] == policy
    assert headers_of("<script>1</script>")["content-security-policy"] != policy


def test_every_field_has_a_label():
    found = page("tiny")
    fields = re.findall(r"<(?:input|textarea)[^>]*>", found)
    names = re.findall(r'<label for="(\w+)"', found)
    inside = re.findall(r"<label>[^<]*<input[^>]*>", found)
    ids = [field for field in fields if re.search(r'id="(\w+)"', field)]
    assert all(re.search(r'id="(\w+)"', field)[1] in names for field in ids)
    assert len(ids) + len(inside) == len(fields)


def test_what_the_model_cannot_is_said():
    assert 'data-chat="false"' in page("tiny", has_chat=False)
    assert 'data-images="false"' in page("tiny", sees_images=False)
