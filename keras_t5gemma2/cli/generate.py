"""Text for texts and images, on the terminal or for a file of rows."""

import dataclasses
import json
import sys

import keras

from keras_t5gemma2.cli import data as files
from keras_t5gemma2.cli import models
from keras_t5gemma2.files.disk import check_writable, local_path
from keras_t5gemma2.generation.samplers import goes_token_by_token
from keras_t5gemma2.preprocessing.columns import Columns

# Rows whose answers are written together: what an interruption loses is at most this.
_ROWS_OF_A_PIECE = 8
_START_OF_IMAGE = "<start_of_image>"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `generate`, as the options of `t5gemma2 generate` have it."""

    preset: str
    texts: tuple = ()
    images: tuple = ()
    decoder_text: str | None = None
    data: str | None = None
    columns: dict = dataclasses.field(default_factory=dict)
    limit: int | None = None
    output: str | None = None
    sampler: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int | None = None
    seed: int | None = None
    num_return_sequences: int = 1
    max_new_tokens: int | None = None
    batch_size: int | None = None
    stream: bool | None = None
    as_json: bool = False
    quiet: bool = False


def run(out, dtype=None, quantize=None, text_only=False, adapter=None, **options):
    """Writes the answers to `out`, or to the file that the options name.

    Args:
        out: text file.
        dtype: string or `None`, as `models.load` has it; so have the next ones.
        quantize: string or `None`.
        text_only: bool.
        adapter: path or `None`.
        **options: fields of `Request`, and `encoder_length` and `decoder_length`.
    """
    lengths = {name: options.pop(f"{name}_length", None) for name in ("encoder", "decoder")}
    request = Request(**options)
    rows = _rows(request)
    sampler = models.sampler_of(
        *(request.sampler, request.temperature, request.top_k, request.top_p),
        *(request.beams, request.seed),
    )
    if request.output is not None:
        check_writable(local_path(request.output).parent)
    how = {f"{name}_length": value for name, value in lengths.items()}
    lm = models.load(request.preset, adapter, dtype, quantize, text_only, **how)
    lm.compile(sampler=sampler)
    if _is_streamed(request, rows, lm):
        _stream(request, rows[0], lm, out)
    else:
        _write_all(request, rows, lm, out)


# Rows -------------------------------------------------------------------------------------------


def _rows(request):
    """A list of dicts with the names that `generate` knows, but of a file with its own."""
    rows = files.given_rows(request)
    rows = _asked_rows(request) if rows is None else rows
    if request.decoder_text is not None:
        rows = [{**row, "decoder_text": request.decoder_text} for row in rows]
    return rows


def _asked_rows(request):
    texts = files.lines_of(request.texts)[: request.limit]
    if request.images:
        if len(texts) > 1:
            raise ValueError(
                "`--image` must go with one text. Received: "
                f"{len(texts)} texts. Put several rows with images into a file: `--input`"
            )
        texts = [_with_places(texts[0] if texts else "", len(request.images))]
    if not texts and request.decoder_text is None:
        raise ValueError(
            "`generate` must get a text, an image, `--decoder-text` or `--input`. Received: none"
        )
    rows = [{"encoder_text": text} for text in texts] or [{}]
    if request.images:
        rows[0]["images"] = [str(local_path(image)) for image in request.images]
    return rows


def _with_places(text, count):
    """The text, with a marker for each image before it where it has none."""
    return text if _START_OF_IMAGE in text else _START_OF_IMAGE * count + text


# Answers ----------------------------------------------------------------------------------------


def _is_streamed(request, rows, lm):
    is_possible = (
        len(rows) == 1
        and request.num_return_sequences == 1
        and not request.as_json
        and request.output is None
        and goes_token_by_token(lm.sampler)
    )
    if request.stream and not is_possible:
        raise ValueError(
            "`--stream` must go with one row, one sequence, and a sampler that chooses token by "
            f"token, without --json and --output. Received: {len(rows)} rows, "
            f"--num-return-sequences {request.num_return_sequences} and the sampler "
            f"{type(lm.sampler).__name__}"
        )
    return is_possible and (sys.__stdout__.isatty() if request.stream is None else request.stream)


def _stream(request, row, lm, out):
    pieces = lm.stream(
        {name: [value] for name, value in row.items()},
        max_new_tokens=request.max_new_tokens,
        strip_prompt=False,
        columns=files.checked_columns(request.columns),
        verbose=_verbose(request),
    )
    for _, piece in pieces:
        print(piece, end="", flush=True, file=out)
    print(file=out)


def _write_all(request, rows, lm, out):
    piece = _ROWS_OF_A_PIECE * (request.batch_size or 32)
    is_shown = len(rows) > piece and not request.quiet
    bar = keras.utils.Progbar(len(rows), verbose=int(is_shown), unit_name="row")
    names = Columns(request.columns).places(rows[0]) if request.columns else {}
    written = 0
    file = out if request.output is None else local_path(request.output).open("w", encoding="utf-8")
    try:
        for start in range(0, len(rows), piece):
            part = rows[start : start + piece]
            texts = _answers(request, part, lm, _verbose(request) if len(rows) <= piece else 0)
            file.write(_lines_of(request, part, texts, start, names))
            file.flush()
            written += len(part)
            bar.update(written)
    except KeyboardInterrupt as error:
        place = "stdout" if request.output is None else request.output
        error.add_note(f"Interrupted: {place} has the answers of the first {written} rows")
        raise
    finally:
        if file is not out:
            file.close()


def _answers(request, rows, lm, verbose):
    """For each row a list of texts."""
    count = request.num_return_sequences
    texts = lm.generate(
        rows,
        max_new_tokens=request.max_new_tokens,
        num_return_sequences=count,
        batch_size=request.batch_size,
        columns=files.checked_columns(request.columns),
        verbose=verbose,
    )
    return [texts[i : i + count] for i in range(0, len(texts), count)]


def _lines_of(request, rows, answers, start, names):
    if not request.as_json and request.output is None:
        return "".join(f"{text}\n" for texts in answers for text in texts)
    lines = []
    for number, (row, texts) in enumerate(zip(rows, answers, strict=True), start):
        source = row.get(names.get("encoder_text", "encoder_text"))
        line = {"index": number, "encoder_text": source, "text": texts[0]}
        if request.num_return_sequences > 1:
            line["texts"] = texts
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _verbose(request):
    return 0 if request.quiet else "auto"
