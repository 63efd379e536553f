"""The page at /, one file without any other resource."""

import base64
import hashlib
import html
import pathlib
import re

_PAGE = pathlib.Path(__file__).with_name("page.html")


def page(name, has_chat=True, sees_images=True):
    """The text of the page.

    Args:
        name: string, what the model is called.
        has_chat: bool. Whether the model has a chat template.
        sees_images: bool. Whether it has a vision tower.

    Example:

    >>> "<title>a &lt; b" in page("a < b")
    True
    """
    values = {"model": html.escape(name)}
    values |= {"chat": str(has_chat).lower(), "images": str(sees_images).lower()}
    text = _PAGE.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"{{{{ {key} }}}}", value)
    return text


def headers_of(text):
    """Headers of the page: it runs its own script, and asks nobody but its server.

    Args:
        text: string, what `page` gives.

    Example:

    >>> "sha256-" in headers_of(page("tiny"))["content-security-policy"]
    True
    """
    allowed = {
        "default-src": "'none'",
        "script-src": _hashes(text, "script"),
        "style-src": _hashes(text, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {what}" for name, what in allowed.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _hashes(text, tag):
    parts = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (hashlib.sha256(part.encode()).digest() for part in parts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
