"""The page at /, one file without any other resource."""

import html
import pathlib

_PAGE = pathlib.Path(__file__).with_name("page.html")


def page(name):
    """The text of the page.

    Args:
        name: string, what the model is called.

    Example:

    >>> "<title>a &lt; b" in page("a < b")
    True
    """
    return _PAGE.read_text(encoding="utf-8").replace("{{ model }}", html.escape(name))
