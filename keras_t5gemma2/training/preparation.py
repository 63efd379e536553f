"""What a data set is made of: rows or batches, raw or as arrays, and how they become arrays."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_t5gemma2.messages import short_errors
from keras_t5gemma2.model.array_checks import (
    IGNORED,
    check_inputs,
    check_labels,
    check_weights,
    image_shapes,
)
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.preprocessing.packing import fit_width
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import Row, parse_rows, targets_of
from keras_t5gemma2.preprocessing.sources import are_arrays, unpack


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Makes the arrays of a step.

    Args:
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` where everything is arrays.
        config: `BackboneConfig`.
        class_weight: dict from token ids to what the weights of such labels are times, or `None`.
        distillation: `Distillation`, whose targets come in the place of labels, or `None`.
        has_token_labels: bool. Whether labels are token ids: those of a loss of the user's own
            may be anything.
        cuts: `Cuts` of all rows together.
        columns: `Columns`, which of raw data are read.
        targets: what to do with rows that have several targets: "draw" one of them, make a row of
            "each", or refuse them where only "one" can be.
    """

    preprocessor: Any
    config: Any
    class_weight: dict | None = None
    distillation: Any = None
    has_token_labels: bool = True
    cuts: Cuts = dataclasses.field(default_factory=Cuts)
    columns: Columns = dataclasses.field(default_factory=Columns)
    targets: str = "one"

    def __call__(self, x, y=None, sample_weight=None, indices=None, place=()):
        """`x` as a dict of arrays, or (x, labels), or (x, labels, weights).

        Args:
            x: rows or arrays.
            y: texts or labels, or `None`.
            sample_weight: per row or per label, or `None`.
            indices: (rows,) ints, which rows of the data they are, or `None` if that is unknown.
            place: tuple of ints, what tells this batch from others where targets are drawn.
        """
        if are_arrays(x):
            x, y, sample_weight = self.checked(x, y, sample_weight)
            if y is not None and self.has_token_labels:
                y, sample_weight = _without_ignored(y, sample_weight)
        else:
            self.check_preprocessor(x)
            if sample_weight is not None:
                check_weights(to_numpy(sample_weight))
            is_parsed = isinstance(x, list) and x and isinstance(x[0], Row)
            rows, _ = self.parsed(x, y)
            if sample_weight is not None and not is_parsed:
                sample_weight = _of_each_answer(sample_weight, rows)
            rows, sample_weight = self.with_one_target(rows, sample_weight, place)
            # Not through `__call__`: it refuses texts and tensors together, and buries errors.
            with one_warning(self.cuts):
                x, y, sample_weight = self.preprocessor.call(rows, None, sample_weight)
        if self.config.vision is not None:
            x = {**x, **self._images(x)}
        weights = self._weights(y, sample_weight)
        if self.distillation is not None:
            y = self.distillation.targets(x, y, indices)
        return keras.utils.pack_x_y_sample_weight(x, y, weights)

    def checked(self, x, y=None, sample_weight=None):
        """The three as numpy arrays.

        Raises:
            ValueError: about arrays that the model cannot take.
        """
        x = {name: to_numpy(value) for name, value in x.items()}
        check_inputs(x, self.config)
        y = None if y is None else to_numpy(y)
        if y is not None and self.has_token_labels:
            check_labels(y, x["decoder_token_ids"], self.config)
        if sample_weight is not None:
            check_weights(sample_weight := to_numpy(sample_weight))
        return x, y, sample_weight

    def parsed(self, x, y=None):
        """A list of `Row`, and their labels where these are no texts.

        Args:
            x: as of `parse_rows`.
            y: as of `parse_rows`.
        """
        rows, _ = parse_rows(x, y, self.columns, several_targets=True, answers=True)
        return rows, None

    def check(self, rows):
        """Raises what is wrong with raw rows, as far as it shows without reading a file."""
        self.check_preprocessor(rows)
        if self.targets == "one":
            self.with_one_target(rows)
        with one_warning(self.cuts):
            self.preprocessor.check_rows(with_each_target(rows)[0])

    def with_one_target(self, rows, sample_weight=None, place=()):
        """Rows of one target each, as `targets` says, and their weights.

        Args:
            rows: list of `Row`.
            sample_weight: (rows, ...) floats or `None`.
            place: as of `__call__`.
        """
        several = [row for row in rows if isinstance(row.decoder_text, tuple)]
        if not several:
            return rows, sample_weight
        if self.targets == "each":
            rows, numbers = with_each_target(rows)
            return rows, None if sample_weight is None else to_numpy(sample_weight)[numbers]
        if self.targets == "draw":
            return [_with_drawn_target(row, place) for row in rows], sample_weight
        raise ValueError(
            "`decoder_text` must be one text for each row here: `fit` draws one of several, and "
            f"`evaluate` takes each. Received in row {several[0].number}: "
            f"{len(several[0].decoder_text)} texts"
        )

    def check_preprocessor(self, x):
        if self.preprocessor is None:
            raise ValueError(
                "Without a preprocessor the data must be arrays as the model takes them, such as "
                f"`decoder_token_ids`. Received: preprocessor=None, and data of type {type(x)}"
            )

    def _images(self, x):
        """Both forms of images, one of them empty: every batch has the same structure."""
        batch = len(x["encoder_token_ids"])
        return {
            name: _with_few_sizes(x[name])
            if name in x and np.shape(x[name])[1]
            else np.zeros((batch, 0, *shape), "float32")
            for name, shape in image_shapes(self.config.vision).items()
        }

    def _weights(self, labels, sample_weight):
        """Weights of (rows, labels), or `None` where all labels count alike."""
        if labels is None or (sample_weight is None and self.class_weight is None):
            return None
        weights = np.ones(labels.shape, "float32")
        if sample_weight is not None:
            with short_errors():
                given = to_numpy(sample_weight).astype("float32")
            if given.shape not in (labels.shape[:1], labels.shape):
                raise ValueError(
                    "`sample_weight` must be one number per row or one per label, of shape "
                    f"{labels.shape}. Received: sample_weight of shape {given.shape}"
                )
            weights *= given if given.shape == labels.shape else given[:, None]
        for token_id, weight in (self.class_weight or {}).items():
            weights[labels == token_id] *= weight
        return weights


def _without_ignored(labels, weights):
    """Labels, and weights that are 0 where there is no loss; so in every batch of a stream."""
    counted = labels != IGNORED
    if weights is None:
        weights = counted.astype("float32")
    elif weights.shape in (labels.shape[:1], labels.shape):  # else an error says what it must be
        weights = np.where(counted, weights if weights.ndim == 2 else weights[:, None], 0)
    return np.where(counted, labels, 0), weights


def _of_each_answer(weights, rows):
    """Weights of rows, of which a dialogue is one for each answer in it."""
    weights, numbers = to_numpy(weights), [row.number for row in rows]
    if weights.ndim == 0 or len(weights) != 1 + numbers[-1]:
        return weights  # an error says what they must be
    return weights[numbers]


def with_each_target(rows):
    """A row for each target of each row, and for each of them the index of the row it is of."""
    found = [
        (row._replace(decoder_text=text), index)
        for index, row in enumerate(rows)
        for text in targets_of(row) or (None,)
    ]
    each, indices = zip(*found, strict=True)
    return list(each), np.array(indices)


def _with_drawn_target(row, place):
    if not isinstance(row.decoder_text, tuple):
        return row
    number = np.random.default_rng((*place, row.number)).integers(len(row.decoder_text))
    return row._replace(decoder_text=row.decoder_text[number])


def join_elements(elements):
    """(x, y, sample_weight) of a batch from its rows; arrays may be of different lengths."""
    x, y, weights = zip(*map(unpack, elements), strict=True)
    weights = None if weights[0] is None else [to_numpy(weight) for weight in weights]
    if not are_arrays(x[0]):
        y = None if y[0] is None else list(y)
        return list(x), y, None if weights is None else _stack(weights)
    names = dict.fromkeys(name for row in x for name in row)
    arrays = {name: _stack([to_numpy(row[name]) for row in x]) for name in names}
    if y[0] is None:
        return arrays, None, None if weights is None else _stack(weights)
    labels = [to_numpy(of_row) for of_row in y]
    # A weight for each label, so that what fills a shorter row up has none.
    ones = [np.ones(len(of_row), "float32") for of_row in labels]
    weights = ones if weights is None else [w * o for w, o in zip(weights, ones, strict=True)]
    return arrays, _stack(labels), _stack(weights)


def rows_of_arrays(x, y, sample_weight):
    """A function from indices to (x, y, sample_weight) of these rows, and all indices."""
    named = {**x, "y": y, "sample_weight": sample_weight}
    named = {name: to_numpy(value) for name, value in named.items() if value is not None}
    counts = {name: len(value) for name, value in named.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"All arrays must have as many rows. Received, in rows: {counts}")

    def take(indices):
        rows = {name: value[indices] for name, value in named.items()}
        y, weights = rows.pop("y", None), rows.pop("sample_weight", None)
        return rows, y, weights

    return take, np.arange(next(iter(counts.values())))


def _stack(rows):
    """Rows as one array; tokens and images of those that have fewer are filled up with zeros."""
    if rows[0].ndim == 0:
        return np.stack(rows)
    most, shape = max((len(row), row.shape[1:]) for row in rows)
    # Features of no image do not know how wide the tower is.
    rows = [row if len(row) else np.zeros((0, *shape), row.dtype) for row in rows]
    return np.stack([fit_width(row[None], most)[0] for row in rows])


def _with_few_sizes(images):
    """`images` with their axis 1 filled up to 0, 1, 2, 4, 8, ...: programs are compiled by size."""
    images = to_numpy(images)
    count = images.shape[1]
    size = 1 << (count - 1).bit_length() if count else 0
    return np.pad(images, [(0, size - count if axis == 1 else 0) for axis in range(images.ndim)])
