"""What an embedder's data set is made of: queries, documents and negatives, and their arrays."""

import dataclasses

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.preprocessing.columns import TEACHER_KEYS, TEXT_KEYS
from keras_t5gemma2.preprocessing.containers import is_missing, is_table, texts_of
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.packing import bucket
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import Row, as_table
from keras_t5gemma2.preprocessing.sources import are_arrays
from keras_t5gemma2.training.preparation import Preparation

# Tokens that short rows are padded to: queries and names are of few.
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class EmbeddingPreparation(Preparation):
    """Makes the arrays of an embedder's step: the texts of each row one after another.

    A row is kept as a `Row` whose `encoder_text` is the query, and whose `decoder_text` is a tuple
    of the document and perhaps the negative.

    Args:
        prompts: pair of strings, what stands before queries, and before documents and negatives.
    """

    prompts: tuple[str, str] = ("", "")

    def __call__(self, x, y=None, sample_weight=None, indices=None, place=()):
        """`x` as a dict of arrays of (rows * k, ...), and what `EmbeddingLoss` takes as y.

        Args:
            x: rows of texts.
            y: documents, where `x` are queries; or the vectors of a teacher of each row.
            sample_weight: must be `None`.
            indices: not read.
            place: not read.
        """
        if sample_weight is not None or self.class_weight is not None:
            raise ValueError(
                "An embedder's rows have no weights: each is compared with all others. Received: "
                "sample_weight or class_weight"
            )
        if are_arrays(x):
            raise ValueError(
                "`fit` and `evaluate` of an embedder take texts, `query` and `document`. Received: "
                f"arrays, {shown(sorted(x))}"
            )
        self.check_preprocessor(x)
        rows, teacher = self.parsed(x, y)
        texts = self.texts(rows)
        with one_warning(self.cuts):
            x = self.preprocessor.generate_preprocess(texts)
        x = of_encoder(x)
        width = bucket(_longest(x), _SHORTEST)
        x |= {name: x[name][:, :width] for name in ("encoder_token_ids", "encoder_padding_mask")}
        if self.config.vision is not None:
            x |= self._images(x)
        y = {"texts": _numbers([row.encoder_text for row in texts], len(texts) // len(rows))}
        if teacher is not None:
            y["teacher"] = np.concatenate(teacher).astype("float32")[:, None]
        return x, y

    def texts(self, rows):
        """A `Row` for each text of rows, with its prompt."""
        query, document = self.prompts
        return [
            Row(prompt + text, [], None, row.number)
            for row in rows
            for prompt, text in [
                (query, row.encoder_text),
                *((document, text) for text in row.decoder_text),
            ]
        ]

    def check(self, rows):
        self.check_preprocessor(rows)
        with one_warning(self.cuts):
            self.preprocessor.check_rows(self.texts(rows), training=False)

    def parsed(self, x, y=None):
        """A list of `Row`, and per row (k, width) vectors of a teacher, or `None`.

        Args:
            x: dict of lists, list of dicts or table of `query`, `document` and perhaps `negative`;
                or a list of queries.
            y: documents, where `x` has none.

        Raises:
            ValueError, TypeError: a text is missing or none.
        """
        if isinstance(x, list) and x and isinstance(x[0], Row):
            return x, y
        table = self._table(x, y)
        keys = [key for key in TEXT_KEYS if table.get(key) is not None]
        if missing := [key for key in TEXT_KEYS[:2] if key not in keys]:
            raise ValueError(
                "An embedder learns from a `query` and its `document` in each row. Received: "
                f"{shown(sorted(table))}, without {shown(missing)}"
            )
        columns = [_texts(key, table[key]) for key in keys]
        _check_counts(dict(zip(keys, columns, strict=True)))
        rows = [
            Row(query, [], tuple(others), number)
            for number, (query, *others) in enumerate(zip(*columns, strict=True))
        ]
        return rows, _teacher(table, keys, len(rows))

    def _table(self, x, y):
        has_names = isinstance(x, dict) or is_table(x) or _are_dicts(x)
        if has_names or y is None:
            table = as_table(x, columns=self.columns)
            if not has_names:  # a list of texts, or of pairs of them
                ours = {"encoder_text": "query", "decoder_text": "document"}
                table = {ours[name]: texts for name, texts in table.items()}
        else:
            table = {"query": x}
        if y is not None and table.get("document") is not None:
            raise ValueError(
                "Documents must be given once. Received: a column `document` in x, and y of type "
                f"{type(y)}"
            )
        return table if y is None else {**table, "document": y}


def _are_dicts(x):
    return isinstance(x, (list, tuple)) and len(x) > 0 and isinstance(x[0], dict)


def _texts(key, value):
    texts = texts_of(value, key)
    texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
    for number, text in enumerate(texts):
        if is_missing(text) or not isinstance(text, str):
            raise TypeError(
                f"`{key}` must be a string in each row. Received in row {number}: {shown(text)}"
            )
    return texts


def _check_counts(columns):
    counts = {key: len(value) for key, value in columns.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(
            f"All columns must have as many rows, at least one. Received, in rows: {counts}"
        )


def _teacher(table, keys, count):
    given = [key for key in TEACHER_KEYS if table.get(key) is not None]
    if not given:
        return None
    wanted = [key for key in TEACHER_KEYS if key.removesuffix("_embedding") in keys]
    if given != wanted:
        raise ValueError(
            f"A teacher's vectors must be given for all of {shown(keys)}. Received: {shown(given)}"
        )
    vectors = [np.asarray(to_numpy(table[key]), "float32") for key in wanted]
    shapes = {v.shape for v in vectors}
    if len(shapes) > 1 or vectors[0].ndim != 2 or len(vectors[0]) != count:
        raise ValueError(
            f"A teacher's vectors must be of shape ({count}, width). Received: {shown(shapes)}"
        )
    return list(np.stack(vectors, axis=1))


def _longest(x):
    return int(x["encoder_padding_mask"].sum(axis=1).max())


def _numbers(texts, k):
    """(texts, 1, k) int32: of each text the numbers of those of its row, equal for equal texts.

    Batches of TensorFlow have first axes of any size, and k is to be known in a step.
    """
    known = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([known[text] for text in texts], "int32").reshape(-1, 1, k)
    return np.repeat(numbers, k, axis=0)
