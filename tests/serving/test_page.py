"""The page needs nothing but itself."""

import re

import pytest

from keras_t5gemma2.serving.page import page

pytestmark = pytest.mark.once


def test_the_name_is_text():
    found = page("<script>alert(1)</script>")
    assert "<script>alert" not in found and "&lt;script&gt;alert(1)" in found


def test_no_other_resource():
    found = page("tiny")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?!#|data:|blob:)[^\"'>\s]", found)
    assert not re.search(r"https?://|@import|url\((?!data:)", found)
