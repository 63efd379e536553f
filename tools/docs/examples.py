"""What the site's reference shows of docstrings: their examples as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Puts paragraphs that begin with a prompt into fences, which Markdown leaves as they are."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
    """`text` with a fence around each run of paragraphs that begin with `>>>`."""
    return re.sub(r"(?ms)^>>> .*?(?=\n\n(?!>>> )|\Z)", r"```pycon\n\g<0>\n```", text)
