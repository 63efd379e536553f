"""Names of hosts; what is refused is in tests/serving/test_app.py."""

import pytest

from keras_t5gemma2.serving.guard import hosts_of, too_large

pytestmark = pytest.mark.once


def test_a_server_on_loopback_is_asked_by_its_names_alone():
    assert "localhost" in hosts_of("127.0.0.1") and "localhost" in hosts_of("::1")
    assert hosts_of("0.0.0.0") is None and hosts_of("example.org") is None


def test_the_error_of_large_bodies():
    assert (too_large(5).status, "5 bytes" in too_large(5).message) == (413, True)
