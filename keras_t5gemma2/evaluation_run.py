"""One run of generation over rows with references, batch by batch, which may be cut off."""

import contextlib
import functools
import json
import sys

import keras
import numpy as np

from keras_t5gemma2.disk import local_path
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.rows import length_of_row, parse_rows
from keras_t5gemma2.tasks.generating import Generates
from keras_t5gemma2.tasks.generation import sorted_batches


class Run:
    """The rows, their references, and the texts so far.

    Args:
        models: list of models with `generate`, or of functions in its place.
        data: as `evaluate_generation` takes it.
        normalize: function of a string, or `None`.
    """

    def __init__(self, models, data, normalize=None):
        self.rows, self.references = read(data)
        self.generators = [_generator(model) for model in models]
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
        line = {"index": index, "input": row.encoder_text, "images": len(row.images)}
        if row.decoder_text is not None:
            line["prompt"] = row.decoder_text
        line["references"] = references
        exact = [t in self._normalized(references) for t in self._normalized(texts)]
        for prefix, text, is_exact in zip(("", "base_"), texts, exact, strict=False):
            line |= {f"{prefix}prediction": text, f"{prefix}exact": is_exact}
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _normalized(self, texts):
        return [self.normalize(text) for text in texts]


def read(data):
    """The rows that `data` generates from, and the list of references of each."""
    if not isinstance(data, dict) or data.get("decoder_text") is None:
        received = f"one with {list(data)}" if isinstance(data, dict) else type(data)
        raise TypeError(
            f"`data` must be a dict with references as its `decoder_text`. Received: {received}"
        )
    inputs = {key: value for key, value in data.items() if key != "decoder_prompt"}
    rows, is_single = parse_rows({**inputs, "decoder_text": data.get("decoder_prompt")})
    references = data["decoder_text"]
    if is_single:
        references = [references]
    elif hasattr(references, "shape"):  # an array or tensor of strings
        references = np.asarray(references).tolist()
    if not isinstance(references, (list, tuple)) or len(references) != len(rows):
        count = len(references) if isinstance(references, (list, tuple)) else "one text"
        raise ValueError(
            "`decoder_text` must hold the references of each row. Received, in rows: "
            f"{len(rows)} of the inputs and {count} of `decoder_text`"
        )
    return rows, [_references_of_row(*item) for item in enumerate(references)]


def _references_of_row(row, references):
    references = list(references) if isinstance(references, (list, tuple)) else [references]
    references = [r.decode("utf-8") if isinstance(r, bytes) else r for r in references]
    for reference in references:
        if not isinstance(reference, str):
            raise TypeError(
                "`decoder_text` must hold a string or a list of strings for each row. Received "
                f"in row {row}: {reference!r} (type {type(reference)})"
            )
    if not references:
        raise ValueError(
            f"Each row must have at least one reference. Received in row {row}: an empty list. "
            'Give "" where the right answer is no text'
        )
    return references


def _generator(model):
    if getattr(model, "preprocessor", True) is None:
        raise ValueError(
            "A model must have a preprocessor to be evaluated on text. Received: a "
            f"{type(model).__name__} with preprocessor=None"
        )
    if isinstance(model, Generates):  # the batches are made here
        return functools.partial(model.generate, batch_size=sys.maxsize)
    return getattr(model, "generate", model)
