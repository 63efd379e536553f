"""What stands before the routes: who may ask, and how much."""

import hmac
import json

from keras_t5gemma2.messages import shown
from keras_t5gemma2.serving.errors import RequestError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What needs no key: whether the server lives, and the page, which asks with the key of its user.
_OPEN = ("/health", "/")


class Guard:
    """An ASGI application around another one.

    Args:
        app: ASGI application.
        api_key: string, or `None` for no key.
        hosts: collection of names that the server may be asked by, or `None` for any. On a
            loopback address it keeps pages of other sites, whose names were pointed at it, out.
        most_bytes: int, of a body.
    """

    def __init__(self, app, api_key=None, hosts=None, most_bytes=20 << 20):
        self._app, self._api_key, self._hosts, self._most = app, api_key, hosts, most_bytes

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
        except RequestError as error:
            await _refuse(send, error)
            return
        await self._app(scope, receive, send)

    def _check(self, scope, headers):
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            raise RequestError(421, f"The server has another name. Received: host {shown(host)}")
        if self._api_key is not None and scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"")
            wanted = f"Bearer {self._api_key}".encode()
            if not hmac.compare_digest(given, wanted):
                raise RequestError(
                    401,
                    "The API key must be that of the server, in the header Authorization as "
                    "`Bearer KEY`. Received: " + ("another one" if given else "none"),
                    code="invalid_api_key",
                )
        if scope["method"] != "POST":
            return
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise RequestError(
                415, f"The body must be JSON, of application/json. Received: {shown(kind)}"
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            raise too_large(self._most)


def hosts_of(host):
    """The names that a server on `host` is asked by: those of loopback, or any.

    Example:

    >>> hosts_of("127.0.0.1"), hosts_of("0.0.0.0")
    (('127.0.0.1', 'localhost', '::1'), None)
    """
    return _LOOPBACK if host in _LOOPBACK else None


def too_large(most):
    """The error of a body that has too many bytes."""
    return RequestError(413, f"A body may have {most} bytes. Received: more")


def _name_of(host):
    """`localhost` of `localhost:8000`, `::1` of `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _refuse(send, error):
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
