"""One run of generation over rows with references, batch by batch, which may be cut off."""

import contextlib
import functools
import json
import sys
from typing import NamedTuple

import keras

from keras_t5gemma2.constraints.words import cut
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.generation.batching import sorted_batches
from keras_t5gemma2.generation.generator import Generator
from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.chat_template import turn_end
from keras_t5gemma2.preprocessing.columns import DIALOGUE_KEYS, KEYS, Columns
from keras_t5gemma2.preprocessing.containers import texts_of
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.dialogues import Dialogue, text_of
from keras_t5gemma2.preprocessing.rows import (
    Row,
    as_table,
    check_is_no_tuple,
    length_of_row,
    parse_rows,
)
from keras_t5gemma2.preprocessing.sources import joined_rows


class Run:
    """The rows, their references, and the texts so far.

    Args:
        models: list of models with `generate`, or of functions in its place.
        examples: `Examples`.
        normalize: function of a string, or `None`.
    """

    def __init__(self, models, examples, normalize=None):
        self.rows, self.references = examples
        has_dialogues = any(isinstance(row.encoder_text, Dialogue) for row in self.rows)
        self.generators = [_generator(model, has_dialogues) for model in models]
        self.normalize = normalize or str
        self.texts = {}  # by row, a text of each generator

    def generate(self, batch_size, path=None, verbose="auto", options=None):
        """Fills `texts`, and the file at `path`, batch by batch."""
        batches = sorted_batches([length_of_row(row) for row in self.rows], batch_size)
        verbose = 1 if verbose == "auto" else verbose
        progress = keras.utils.Progbar(len(self.rows), verbose=verbose, unit_name="row")
        with one_warning(), contextlib.ExitStack() as stack:  # one for all batches
            file = path and stack.enter_context(local_path(path).open("w", encoding="utf-8"))
            for batch in batches:
                rows = [self.rows[index] for index in batch]
                texts = [g(rows, strip_prompt=True, **options or {}) for g in self.generators]
                texts = dict(zip(batch, zip(*texts, strict=True), strict=True))
                if file:
                    # In one piece, so that no interruption leaves half a line.
                    file.write("".join(self._line(*item) for item in texts.items()))
                    file.flush()
                self.texts.update(texts)
                progress.update(len(self.texts))

    def predictions(self):
        """For each model its texts in the order of the rows; `None` where there is none yet."""
        none = (None,) * len(self.generators)
        texts = [self.texts.get(index, none) for index in range(len(self.rows))]
        return [list(column) for column in zip(*texts, strict=True)]

    def pairs(self, predictions):
        """The normalized predictions there are, and the normalized references of each."""
        there = [index for index, text in enumerate(predictions) if text is not None]
        texts = self._normalized(predictions[index] for index in there)
        return texts, [self._normalized(self.references[index]) for index in there]

    def _line(self, index, texts):
        row, references = self.rows[index], self.references[index]
        source = row.encoder_text
        source = source.messages if isinstance(source, Dialogue) else source
        line = {"index": index, "input": source, "images": len(row.images)}
        if row.decoder_text is not None:
            line["prompt"] = row.decoder_text
        line["references"] = references
        exact = [t in self._normalized(references) for t in self._normalized(texts)]
        for prefix, text, is_exact in zip(("", "base_"), texts, exact, strict=False):
            line |= {f"{prefix}prediction": text, f"{prefix}exact": is_exact}
        return json.dumps(line, ensure_ascii=False, default=str) + "\n"

    def _normalized(self, texts):
        return [self.normalize(text) for text in texts]


class Examples(NamedTuple):
    """Rows to generate from, whose `decoder_text` is a prompt, and a list of references of each."""

    rows: list[Row]
    references: list[list[str]]


def read(data, columns=None):
    """`Examples` of what `evaluate_generation` takes; they come back as they are.

    Args:
        data: as `evaluate_generation` takes it.
        columns: dict or `None`, as it takes it.
    """
    if isinstance(data, Examples):
        return data
    columns = Columns(columns, known=(*KEYS, "decoder_prompt"))
    references = []

    def rows_of(x, y):
        found, is_single, of_rows = _examples(x, y, columns)
        references.extend(of_rows)
        return found, is_single

    rows, _ = joined_rows(data, rows_of)
    return Examples(rows, references)


def _examples(x, y, columns):
    """The rows of a batch, whether it was a single row, and the references of each."""
    table = as_table(x, y, columns)
    if not table.keys().isdisjoint(DIALOGUE_KEYS):
        return _of_dialogues(table)
    references = texts_of(table.get("decoder_text"), "decoder_text")
    if references is None:
        received = f"one with {list(x)}" if isinstance(x, dict) else type(x)
        raise TypeError(
            "`data` must hold references as its `decoder_text`, or be a tuple of texts and their "
            f"references. Received: {received}"
        )
    inputs = {key: value for key, value in table.items() if key != "decoder_prompt"}
    rows, is_single = parse_rows({**inputs, "decoder_text": table.get("decoder_prompt")})
    references = [references] if is_single else references
    if not isinstance(references, (list, tuple)) or len(references) != len(rows):
        count = len(references) if isinstance(references, (list, tuple)) else "one text"
        raise ValueError(
            "`decoder_text` must hold the references of each row. Received, in rows: "
            f"{len(rows)} of the inputs and {count} of `decoder_text`"
        )
    return rows, is_single, [_references_of_row(*item) for item in enumerate(references)]


def _of_dialogues(table):
    """As `_examples`: of each dialogue what comes before its last answer, and that answer."""
    answers, _ = parse_rows(table, answers=True)
    last = list({row.number: row for row in answers}.values())
    rows = [row._replace(decoder_text=None) for row in last]
    # Without spaces at its ends, as templates write it.
    return rows, False, [[text_of(row.decoder_text["content"]).strip()] for row in last]


def _references_of_row(row, references):
    check_is_no_tuple("decoder_text", references, row)
    references = texts_of(references, "decoder_text")
    references = list(references) if isinstance(references, (list, tuple)) else [references]
    references = [r.decode("utf-8") if isinstance(r, bytes) else r for r in references]
    for reference in references:
        if not isinstance(reference, str):
            raise TypeError(
                "`decoder_text` must hold a string or a list of strings for each row. Received "
                f"in row {row}: {shown(reference)} (type {type(reference)})"
            )
    if not references:
        raise ValueError(
            f"Each row must have at least one reference. Received in row {row}: an empty list. "
            'Give "" where the right answer is no text'
        )
    return references


def _generator(model, has_dialogues):
    if getattr(model, "preprocessor", True) is None:
        raise ValueError(
            "A model must have a preprocessor to be evaluated on text. Received: a "
            f"{type(model).__name__} with preprocessor=None"
        )
    if isinstance(getattr(model, "generator", None), Generator):  # the batches are made here
        generate = functools.partial(model.generate, batch_size=sys.maxsize)
        return _of_turns(generate, model.preprocessor) if has_dialogues else generate
    return getattr(model, "generate", model)


def _of_turns(generate, preprocessor):
    """A function like `generate` that ends with the model's turn, as `chat` does."""
    end, ids = turn_end(preprocessor)

    def answers(rows, stop_token_ids="auto", **options):
        if isinstance(stop_token_ids, str):
            stop_token_ids = ids
        texts = generate(rows, stop_token_ids=stop_token_ids, **options)
        return [cut(text, (end,)) if end else text for text in texts]

    return answers


_WIDTH = 48  # of a column of samples, in characters


def table_of_samples(examples, predictions, count):
    """The first inputs, targets and outputs, cut to a line each.

    Args:
        examples: `Examples`.
        predictions: list of strings, or of `None` where none was generated.
        count: int. The most rows.
    """
    lines = [("input", "target", "output")]
    for row, references, text in list(zip(*examples, predictions, strict=True))[:count]:
        source = f"{len(row.images)} images" if row.encoder_text is None else row.encoder_text
        source = text_of(source.messages[-1]["content"]) if isinstance(source, Dialogue) else source
        more = f" (+{len(references) - 1})" if len(references) > 1 else ""
        lines.append((_cut(source), _cut(references[0]) + more, "" if text is None else _cut(text)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cut(text):
    """A text in one line, as Python writes it."""
    return shown(text, _WIDTH)
