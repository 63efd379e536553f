"""The chat template of a checkpoint, in the files that the reference has had for it."""

import pathlib

from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.messages import cause, shown

TEMPLATE_FILE = "chat_template.jinja"
# Files of earlier releases, in which it is a value.
_OLDER_FILES = ("chat_template.json", "tokenizer_config.json")
_KEY, _DEFAULT = "chat_template", "default"
_MOST_BYTES = 4_000_000


def read_template(directory):
    """The text of a checkpoint's own chat template, or `None`.

    Args:
        directory: path of a directory.

    Raises:
        ValueError: a file is no text in UTF-8 or too large, or a value is no template.

    Example:

    >>> import pathlib, tempfile
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (directory / "chat_template.jinja").write_text("{{ messages }}")
    >>> read_template(directory)
    '{{ messages }}'
    """
    path = pathlib.Path(directory) / TEMPLATE_FILE
    if path.is_file():
        if path.stat().st_size > _MOST_BYTES:
            size = path.stat().st_size
            raise ValueError(f"{path} must have at most {_MOST_BYTES} bytes. Received: {size}")
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be text in UTF-8: {cause(error)}") from error
    for name in _OLDER_FILES:
        is_there = (path.parent / name).is_file()
        value = read_json(directory, name).get(_KEY) if is_there else None
        if value is not None:
            return _template_of(value, path.parent / name)
    return None


def _template_of(value, path):
    """A template that is a value, or the default one of several by name."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        by_name = {item.get("name"): item.get("template") for item in value}
        if _DEFAULT not in by_name:
            return None
        value = by_name[_DEFAULT]
    if not isinstance(value, str):
        raise ValueError(
            f"`{_KEY}` of {path} must be the text of a template, or a list of templates by name. "
            f"Received: {shown(value)}"
        )
    return value
