"""What a request gets that cannot be answered: errors in OpenAI's form."""

import re


class RequestError(Exception):
    """An error that a client is told.

    Args:
        status: int, of HTTP.
        message: string.
        param: string, the name of the argument, or `None`.
        code: string for programs, or `None`.
        headers: dict of further headers, or `None`.

    Example:

    >>> error = RequestError(400, "`n` must be at least 1. Received: n=0", "n")
    >>> error.body()["error"]["param"], error.body()["error"]["type"]
    ('n', 'invalid_request_error')
    """

    def __init__(self, status, message, param=None, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self):
        """A dict of JSON."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}

# Arguments of the package by the names that requests have for them.
_NAMES = {
    "max_new_tokens": "max_tokens",
    "constraint": "response_format",
    "schema": "response_format",
    "num_return_sequences": "n",
    "encoder_text": "prompt",
    "inputs": "prompt",
    "texts": "input",
}


# A value that was received stays as it is, whatever words stand in it.
_NAME_OR_VALUE = re.compile(r"""(?<==)(?:'[^']*'|"[^"]*")|`\w+`|\b\w+(?==)""")


def of_value(error, default=None, known=()):
    """The `RequestError` of a `ValueError` or `TypeError` of the package, in the request's words.

    Args:
        error: exception, whose message may name the argument between backticks.
        default: string, the argument where none is named that the request has.
        known: names of arguments that the request may have.
    """
    found = re.search(r"`(\w+)`", str(error))
    name = found and _NAMES.get(found[1], found[1])
    message = _NAME_OR_VALUE.sub(lambda match: _renamed(match[0], known), str(error))
    return RequestError(400, message, name if name in known else default)


def _renamed(word, known):
    """A name of an argument, with or without backticks, as the request has it."""
    name = word.strip("`")
    other = _NAMES.get(name, name)
    return word.replace(name, other) if other in known else word
