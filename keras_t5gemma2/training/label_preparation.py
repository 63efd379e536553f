"""What a classifier's data set is made of: rows with labels, and how they become arrays."""

import dataclasses

import keras
import numpy as np

from keras_t5gemma2.messages import short_errors, shown
from keras_t5gemma2.model.array_checks import check_inputs, check_weights
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.preprocessing.columns import LABEL
from keras_t5gemma2.preprocessing.containers import is_missing, is_sequence, is_table, items_of
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import Row, as_table, parse_rows
from keras_t5gemma2.preprocessing.sources import are_arrays
from keras_t5gemma2.training.preparation import Preparation

# What the encoder reads: a classifier makes the decoder's tokens of it.
_SIDE = ("encoder",)


@dataclasses.dataclass(frozen=True)
class LabelPreparation(Preparation):
    """Makes the arrays of a classifier's step; what differs from `Preparation` is its labels.

    Args:
        num_classes: int.
        has_own_loss: bool. Whether the user compiled with a loss: labels may then be anything.
    """

    num_classes: int = 2
    has_own_loss: bool = False

    def __call__(self, x, y=None, sample_weight=None, indices=None, place=()):
        """As of `Preparation`, with labels in place of targets.

        Args:
            x: rows or arrays.
            y: labels, or `None` in `predict`.
            sample_weight: per row, or `None`.
            indices: not read.
            place: not read.
        """
        if are_arrays(x):
            x, y, sample_weight = self.checked(x, y, sample_weight)
        else:
            self.check_preprocessor(x)
            if sample_weight is not None:
                check_weights(to_numpy(sample_weight))
            rows, y = self.parsed(x, y)
            with one_warning(self.cuts):
                x = self.preprocessor.generate_preprocess(rows)
            y = None if y is None else self.labels(y, rows, x)
        x = of_encoder(x)
        if self.config.vision is not None:
            x = {**x, **self._images(x)}
        if y is None and self.targets != "one":
            raise ValueError(
                f"Labels must be given, as `y` or as the column `{LABEL}` of x. Received: y=None, "
                "and none in x"
            )
        return keras.utils.pack_x_y_sample_weight(x, y, self._weights(y, sample_weight))

    def checked(self, x, y=None, sample_weight=None):
        x = {name: to_numpy(value) for name, value in x.items()}
        check_inputs(x, self.config, _SIDE)
        y = None if y is None else self.labels_of_arrays(to_numpy(y), x)
        if sample_weight is not None:
            check_weights(sample_weight := to_numpy(sample_weight))
        return x, y, sample_weight

    def check(self, rows):
        self.check_preprocessor(rows)
        with one_warning(self.cuts):
            self.preprocessor.check_rows(rows, training=False)

    def parsed(self, x, y=None):
        """A list of `Row`, and what was said of their labels; `None` if nothing was.

        Args:
            x: as of `parse_rows`; a table may have a column `label`.
            y: labels, or `None`.
        """
        if are_parsed(x):
            return x, y
        return self.with_labels(*self.table_of(x, y))

    def table_of(self, x, y):
        """A dict of known keys without `label`, and the labels."""
        x = items_of(x) if is_sequence(x) and not is_table(x) else x
        if isinstance(x, list) and x and all(isinstance(row, tuple) for row in x) and y is None:
            x, y = map(list, zip(*x, strict=True))
        table = as_table(x, columns=self.columns)
        labels = table.pop(LABEL, None)
        if labels is not None and y is not None:
            raise ValueError(
                f"Labels must be given once. Received: a column `{LABEL}` in x, and y={shown(y)}"
            )
        return table, labels if y is None else y

    def with_labels(self, table, y):
        """A list of `Row`, and a list of their labels or `None`."""
        rows, is_single = parse_rows(table)
        if y is None:
            return rows, None
        y = [y] if is_single else list_of(y)
        if len(y) != len(rows):
            raise ValueError(
                f"There must be a label for each row. Received: {len(y)} labels and {len(rows)} "
                "rows"
            )
        return rows, y

    def labels(self, y, rows, x):
        """The array of the labels of rows.

        Args:
            y: list of what was given, one a row.
            rows: list of `Row`, of which errors give the numbers.
            x: dict of their arrays.
        """
        return self.labels_of_arrays(_stacked(y, [row.number for row in rows]), x)

    def labels_of_arrays(self, y, x):
        """Labels, checked: numbers, classes, or several classes at once.

        Args:
            y: numpy array.
            x: dict of arrays.
        """
        if self.has_own_loss:
            return y
        rows, classes = len(x["encoder_token_ids"]), self.num_classes
        if classes == 1:
            rule, kind = "a finite number for each row, since num_classes=1", "float32"
            is_right = y.shape in ((rows,), (rows, 1)) and y.dtype.kind in "biuf"
            is_right = is_right and np.isfinite(y).all()
        elif y.shape == (rows, classes):
            rule, kind = "from 0 to 1 where a row may have several classes", "float32"
            is_right = y.dtype.kind in "biuf" and ((y >= 0) & (y <= 1)).all()
        else:
            rule = (
                f"an integer from 0 to {classes - 1} for each row, or {classes} of 0 and 1, since "
                f"num_classes={classes}"
            )
            is_right = y.shape in ((rows,), (rows, 1)) and is_class(y, classes)
            kind = "int32"
        if not is_right:
            raise ValueError(f"Labels must be {rule}. Received: {shown(y)}")
        y = y.astype(kind)
        return y[:, 0] if y.shape == (rows, 1) else y

    def _weights(self, labels, sample_weight):
        """(rows,) or (rows, tokens) weights, or `None` where all labels count alike."""
        if labels is None or (sample_weight is None and self.class_weight is None):
            return None
        with short_errors():
            weights = 1.0 if sample_weight is None else to_numpy(sample_weight).astype("float32")
        of_classes = np.ones(np.shape(labels), "float32")
        for label, weight in (self.class_weight or {}).items():
            of_classes[labels == label] *= weight
        of_rows = np.shape(labels)[:1]
        if np.shape(weights) not in ((), of_rows, np.shape(labels)):
            raise ValueError(
                f"`sample_weight` must be one number per row, of shape {of_rows}. Received: "
                f"sample_weight of shape {np.shape(weights)}"
            )
        if self.class_weight is None:
            return weights
        if np.shape(weights) == of_rows:
            weights = weights.reshape(-1, *[1] * (of_classes.ndim - 1))
        return of_classes * weights


def are_parsed(x):
    """Whether `x` is a list of `Row`."""
    return isinstance(x, list) and len(x) > 0 and isinstance(x[0], Row)


def is_class(labels, classes, ignored=()):
    """Whether all labels of an array are integers of classes."""
    if labels.dtype.kind not in "biu":
        return False
    is_known = (labels >= 0) & (labels < classes)
    return bool((is_known | np.isin(labels, ignored)).all())


def list_of(y):
    """Labels as a list with one of each row."""
    if hasattr(y, "to_list"):  # a series, or a ragged tensor
        return y.to_list()
    if isinstance(y, (list, tuple)):
        return list(y)
    return items_of(y) if is_sequence(y) else list(to_numpy(y))


def _stacked(y, numbers):
    for number, label in zip(numbers, y, strict=True):
        if isinstance(label, (str, bytes)) or is_missing(label):
            raise ValueError(
                f"Labels must be numbers. Received in row {number}: {shown(label)}. Number the "
                "classes from 0 on, as in `names.index(label)`"
            )
    shapes = {np.shape(label) for label in y}
    if len(shapes) > 1:
        raise ValueError(
            f"The labels of all rows must have one shape. Received: shapes {sorted(shapes)[:3]}"
        )
    return np.stack([to_numpy(label) for label in y])
