"""Errors in OpenAI's form."""

import pytest

from keras_t5gemma2.serving.errors import RequestError, of_value

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("`top_p` must be a number", "top_p"),
        ("`max_new_tokens` must be an integer", "max_tokens"),
        ("`constraint` must allow a text", "response_format"),
        ("`beams` must be few", "prompt"),
        ("It is too much", "prompt"),
    ],
)
def test_the_argument_is_the_one_that_the_message_names(message, param):
    known = ("prompt", "top_p", "max_tokens", "response_format")
    error = of_value(ValueError(message), "prompt", known)
    assert (error.status, error.param) == (400, param)
    # in the words of the request
    words = {"max_new_tokens": "max_tokens", "constraint": "response_format"}
    for name, other in words.items():
        message = message.replace(name, other)
    assert error.message == message


def test_values_are_named_as_the_request_has_them():
    text = "`num_return_sequences` above 1. Received: num_return_sequences=2 and max_length=None"
    assert of_value(ValueError(text), None, ("n",)).message == (
        "`n` above 1. Received: n=2 and max_length=None"
    )


def test_what_was_received_stays_as_it_was():
    text = "`schema` must be a schema. Received: schema='schema=1, inputs=2'"
    assert of_value(ValueError(text), None, ("response_format", "prompt")).message == (
        "`response_format` must be a schema. Received: response_format='schema=1, inputs=2'"
    )


def test_types_follow_from_the_status():
    found = {code: RequestError(code, "a").body()["error"]["type"] for code in (400, 401, 429, 503)}
    assert list(found.values()) == [
        *("invalid_request_error", "authentication_error", "rate_limit_error", "server_error"),
    ]
