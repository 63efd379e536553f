"""Vectors of texts, on stdout or in a file."""

import dataclasses
import json

import keras
import numpy as np

from keras_t5gemma2.cli import data as files
from keras_t5gemma2.cli import models
from keras_t5gemma2.files.atomic import atomic_file
from keras_t5gemma2.files.disk import check_writable, local_path
from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.columns import Columns

# Rows whose vectors are written together: what an interruption loses is at most this.
_ROWS_OF_A_PIECE = 8
_SUFFIXES = (".jsonl", ".npy")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `embed`, as the options of `t5gemma2 embed` have it."""

    preset: str
    texts: tuple = ()
    data: str | None = None
    columns: dict = dataclasses.field(default_factory=dict)
    limit: int | None = None
    output: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    batch_size: int | None = None
    quiet: bool = False


def run(out, dtype=None, quantize=None, text_only=False, **options):
    """Writes the vectors to `out`, or to the file that the options name.

    Args:
        out: text file.
        dtype: string or `None`, as `models.load_embedder` has it; so have the next ones.
        quantize: string or `None`.
        text_only: bool.
        **options: fields of `Request`, and `encoder_length` and `decoder_length`.
    """
    lengths = {name: options.pop(f"{name}_length", None) for name in ("encoder", "decoder")}
    request = Request(**options)
    rows = _rows(request)
    if request.output is not None:
        _check_output(request.output)
    how = {f"{name}_length": value for name, value in lengths.items()}
    embedder = models.load_embedder(request.preset, dtype, quantize, text_only, **how)
    pieces = _pieces(request, rows, embedder)
    if request.output is None:
        _write_lines(request, rows, pieces, out)
    elif local_path(request.output).suffix == ".npy":
        vectors = np.concatenate(list(pieces))
        with atomic_file(local_path(request.output)) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
    else:
        with local_path(request.output).open("w", encoding="utf-8") as file:
            _write_lines(request, rows, pieces, file)


def _check_output(output):
    path = local_path(output)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"`--output` must end with one of {_SUFFIXES}. Received: {shown(output)}")
    check_writable(path.parent)


def _rows(request):
    """A list of dicts, those of a file with its own names."""
    if (rows := files.given_rows(request)) is not None:
        return rows
    texts = files.lines_of(request.texts)[: request.limit]
    if not texts:
        raise ValueError("`embed` must get a text or `--input`. Received: none")
    return [{"encoder_text": text} for text in texts]


def _pieces(request, rows, embedder):
    """Yields arrays of the vectors of some rows, in their order."""
    piece = _ROWS_OF_A_PIECE * (request.batch_size or 32)
    is_shown = len(rows) > piece and not request.quiet
    bar = keras.utils.Progbar(len(rows), verbose=int(is_shown), unit_name="row")
    names = {old: new for old, new in request.columns.items() if old in rows[0]}
    for start in range(0, len(rows), piece):
        part = [
            {names.get(name, name): value for name, value in row.items()}
            for row in rows[start : start + piece]
        ]
        yield embedder.encode_text(
            part,
            prompt=request.prompt,
            batch_size=request.batch_size,
            dimensions=request.dimensions,
        )
        bar.update(start + len(part))


def _write_lines(request, rows, pieces, file):
    names = Columns(request.columns).places(rows[0]) if request.columns else {}
    name, written = names.get("encoder_text", "encoder_text"), 0
    try:
        for vectors in pieces:
            for row, vector in zip(rows[written : written + len(vectors)], vectors, strict=True):
                line = {"index": written, "encoder_text": row.get(name)}
                line["embedding"] = [float(x) for x in vector]
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                written += 1
            file.flush()
    except KeyboardInterrupt as error:
        place = "stdout" if request.output is None else request.output
        error.add_note(f"Interrupted: {place} has the vectors of the first {written} rows")
        raise
