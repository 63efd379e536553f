"""Rows of files: JSONL, JSON, CSV, TSV and Parquet."""

import csv
import io
import json
import pathlib
import sys

from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import cause, shown, shown_path
from keras_t5gemma2.preprocessing.columns import KEYS

IMAGES = KEYS[1]


def read_rows(path, columns=None, limit=None):
    """The rows of a file, a dict each, under the names of its own columns.

    A relative path of an image is relative to the directory of the file. A cell of a CSV file
    holds one image, none where it is empty, or several as a JSON list.

    Args:
        path: path, whose ending says what it is: .jsonl, .json (a list of objects), .csv, .tsv or
            .parquet.
        columns: dict from names of the file to known ones, or `None`.
        limit: int. The most rows, the first ones; `None` for all.

    Returns:
        A list of dicts.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is needed and not installed.
        ValueError: it is of another kind, damaged, or without rows; the message names the line.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows.csv"
    >>> _ = path.write_text("encoder_text,decoder_text\\nSpell 7 in Dutch.,zeven\\n")
    >>> read_rows(path)
    [{'encoder_text': 'Spell 7 in Dutch.', 'decoder_text': 'zeven'}]
    """
    path = local_path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"A file of rows must end with one of {tuple(_READERS)}. Received: {shown_path(path)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file of rows. Received: {shown_path(path)}")
    rows = []
    for row in read(path):
        rows.append(row)
        if len(rows) == limit:
            break
    if not rows:
        raise ValueError(f"A file must have at least one row. Received: {shown_path(path)}")
    renamed = [old for old, new in (columns or {}).items() if new == IMAGES]
    name = renamed[0] if renamed else IMAGES
    for row in rows:
        if name in row:
            row[name] = _images(row[name], path.parent)
    return rows


def given_rows(request):
    """The rows of the file that a request names, or `None` where it names none.

    Args:
        request: `Request` of a command that takes texts or `--input`.

    Raises:
        ValueError: there is something beside `--input`, or `--column` without it.
    """
    if request.data is None:
        if request.columns:
            raise ValueError(
                "`--column` must go with `--input`, whose columns it names. Received: no --input"
            )
        return None
    beside = {name: len(getattr(request, name, ())) for name in ("texts", "images")}
    if any(beside.values()):
        counts = " and ".join(f"{count} {name}" for name, count in beside.items() if count)
        raise ValueError(
            f"`--input` must stand alone: its rows have the texts and images. Received: also "
            f"{counts}"
        )
    return read_rows(request.data, request.columns, request.limit)


def checked_columns(columns):
    """A dict of renamed columns, or `None` where there are none."""
    return dict(columns) if columns else None


def lines_of(texts):
    """The texts as a list; "-" stands for the lines of stdin.

    Example:

    >>> lines_of(("Spell 7 in Dutch.", "Spell 8 in Dutch."))
    ['Spell 7 in Dutch.', 'Spell 8 in Dutch.']
    """
    lines = lambda text: sys.stdin.read().splitlines() if text == "-" else [text]  # noqa: E731
    return [line for text in texts for line in lines(text)]


# Formats ----------------------------------------------------------------------------------------


def _jsonl(path):
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield _object(line, f"line {number} of {shown_path(path)}")


def _json(path):
    try:
        rows = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"A .json file must be JSON. Received: {shown_path(path)}: {cause(error)}"
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            "A .json file of rows must be a list of objects. Received: "
            f"{shown_path(path)}, with {shown(rows)}. One object on each line is a .jsonl file"
        )
    return rows


def _object(line, place):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Each line of a .jsonl file must be a JSON object. Received: {place}: {cause(error)}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            "Each line of a .jsonl file must be a JSON object. Received: "
            f"{place}, which is {shown(row)}"
        )
    return row


def _csv(path, delimiter=","):
    # A cell may hold a whole document.
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        lines = io.StringIO(_text(path), newline="")  # line ends inside of cells stay
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"Each row of {shown_path(path)} must have {len(reader.fieldnames)} cells, as "
                    f"its first line has. Received: line {reader.line_num}: "
                    f"{shown([cell for cell in row.values() if cell is not None])}"
                )
            yield row
    except csv.Error as error:
        raise ValueError(
            f"{shown_path(path)} must be CSV. Received: after line {reader.line_num}: {error}"
        ) from error
    finally:
        csv.field_size_limit(before)


def _tsv(path):
    return _csv(path, "\t")


def _parquet(path):
    try:
        from pyarrow import lib, parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: install it by `pip install 'keras-t5gemma2[finetune]'`"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except lib.ArrowException as error:
        raise ValueError(
            f"{shown_path(path)} must be a Parquet file. Received: {cause(error)}"
        ) from error


_READERS = {
    **{".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet},
}


def _text(path):
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A file of rows must be text in UTF-8. Received: {shown_path(path)}: {cause(error)}"
        ) from error


# Images -----------------------------------------------------------------------------------------


def _images(value, folder):
    """The images of a row, their paths as the process finds them."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not text.startswith("["):
            return _image(text, folder)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"Several images of a row must be a JSON list. Received: {shown(text)}"
            ) from error
    if isinstance(value, list):
        return [_image(image, folder) for image in value]
    return _image(value, folder)


def _image(value, folder):
    if not isinstance(value, str) or value.startswith("data:"):
        return value
    path = pathlib.Path(value).expanduser()
    return str(path if path.is_absolute() else folder / path)
