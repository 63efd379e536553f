"""What users pass as text and images, brought into one form: a list of rows."""

from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.preprocessing.columns import DIALOGUE_KEYS, KEYS, Columns
from keras_t5gemma2.preprocessing.containers import (
    images_of,
    is_missing,
    is_sequence,
    is_table,
    items_of,
    names_of,
    texts_of,
)
from keras_t5gemma2.preprocessing.dialogues import Dialogue, are_dialogues, dialogues_of


class Row(NamedTuple):
    """One example as given: nothing is tokenized and no image is read yet."""

    encoder_text: str | Dialogue | None
    images: list[Any]
    # A tuple: several targets. A dict: the message that follows a dialogue.
    decoder_text: str | tuple[str, ...] | dict[str, Any] | None
    number: int = 0  # in the input, for errors and weights
    # In the texts of a dialogue, what tells words of its messages from control tokens; else "".
    mark: str = ""


def length_of_row(row):
    """What rows are sorted by, so that those of similar length come together."""
    if isinstance(row.encoder_text, Dialogue):
        return len(row.images), row.encoder_text.length()
    return len(row.images), len(row.encoder_text or "") + max(map(len, targets_of(row)), default=0)


def targets_of(row):
    """The texts of the decoder, as a tuple."""
    if row.decoder_text is None:
        return ()
    return row.decoder_text if isinstance(row.decoder_text, tuple) else (row.decoder_text,)


def parse_rows(x, y=None, columns=None, several_targets=False, reads_y=True, answers=False):
    """The rows of an input in memory, and whether it was a single row without a batch axis.

    Args:
        x: a list of `Row`, which comes back as it is; a string; a list, tuple, array or other
            sequence of strings; a list or other sequence of dicts or of (x, y) tuples, one per
            row; a data frame, an Arrow table or a data set of `datasets`; or a dict of

            - `encoder_text`: a string or a list of strings;
            - `images`, for one string: one image or a list of images; for a list of strings: a
              list with `None`, one image or a list of images per row, an array of shape
              (batch, height, width, channels) or (batch, images, height, width, channels), or a
              ragged tensor of that many dimensions. `ImageFeatures` may stand for an image;
            - `decoder_text`: as `encoder_text`.

            Every key may be missing or `None`. Images alone are one row, unless they are a list
            of lists (or of `None`) or an array with a batch and an images axis. Other keys are
            not read; a warning names them.

            Instead of texts there may be `messages`, a dialogue (a list of messages) or a list of
            dialogues, with `images` for those parts of messages that have none of their own; or
            `prompt` and `completion`, each a string, messages or a list of those. Messages need
            no dict around them.
        y: texts that `decoder_text` of `x` holds else, or `None`.
        columns: `Columns`, which renames.
        several_targets: bool. Whether a row may have a list of texts as its `decoder_text`, which
            becomes a tuple.
        reads_y: bool. Whether y is read, that of (x, y) too; else a warning says that it is not.
        answers: bool. Whether a dialogue is one row for each message of the model, which is the
            target. Else it is one row, whose next message is to be written.

    Returns:
        A list of `Row` and a bool.

    Raises:
        ValueError: for keys none of which is known, keys with different numbers of rows, targets
            in `x` and in `y`, or no rows at all.
        TypeError: if a text is no string.

    Example:

    >>> parse_rows({"encoder_text": ["a", "b"], "images": [None, "bee.png"]})[0]
    [Row(encoder_text='a', images=[], decoder_text=None, number=0), \
Row(encoder_text='b', images=['bee.png'], decoder_text=None, number=1)]
    """
    if isinstance(x, list) and x and isinstance(x[0], Row):
        return x, False
    table = as_table(x, y, columns, reads_y)
    if not table.keys().isdisjoint(DIALOGUE_KEYS):
        found, is_single = dialogues_of(table, answers)
        return [Row(one, one.images, answer, number) for one, answer, number in found], is_single
    encoder_text = _parse_text(table, "encoder_text")
    decoder_text = _parse_text(table, "decoder_text", several_targets)
    if isinstance(encoder_text, str) and isinstance(decoder_text, list) and several_targets:
        decoder_text = tuple(decoder_text)
    images = images_of(table.get("images"))
    texts = [text for text in (encoder_text, decoder_text) if text is not None]
    if any(isinstance(text, list) for text in texts) or (not texts and _are_of_rows(images)):
        return _parse_batch(encoder_text, images, decoder_text), False
    return [Row(encoder_text, _images_of_row(images, row=0), decoder_text)], True


def are_row_dicts(x):
    """Whether `x` is a list of dicts, one per row."""
    return isinstance(x, list) and len(x) > 0 and all(isinstance(row, dict) for row in x)


def as_table(x, y=None, columns=None, reads_y=True):
    """A dict of known keys, of an input in memory that is not parsed yet.

    Args:
        x: as of `parse_rows`, but for a list of `Row`.
        y: as of `parse_rows`.
        columns: as of `parse_rows`.
        reads_y: as of `parse_rows`.
    """
    columns = Columns() if columns is None else columns
    x = items_of(x) if is_sequence(x) and not is_table(x) else x
    if isinstance(x, list) and x and all(isinstance(row, tuple) for row in x):
        x, y = _columns_of_pairs(x, y)
    if are_dialogues(x):
        columns.check_is_not_needed()
        table = {"messages": x}
    elif are_row_dicts(x):
        names = dict.fromkeys(name for row in x for name in row)
        places = columns.places(names)
        table = {key: [row.get(name) for row in x] for key, name in places.items()}
    elif isinstance(x, dict) or is_table(x):
        _check_is_no_dict_of_tables(x)
        places = columns.places(x if isinstance(x, dict) else names_of(x))
        table = {key: x[name] for key, name in places.items()}
    else:
        columns.check_is_not_needed()
        table = {"encoder_text": x}
    if y is not None and not reads_y:
        columns.note_targets()
    elif y is not None:
        y = texts_of(y, "y")
        _check_targets(table, y)
        table = {**table, "decoder_text": y}
    if all(value is None for value in table.values()):
        raise ValueError(f"An input must hold one of {columns.known}. Received: {shown(x)}")
    return table


def _columns_of_pairs(rows, y):
    """x and y of a list of (x, y)."""
    if y is not None or any(len(row) != 2 for row in rows):
        raise ValueError(
            "A list of tuples must hold (x, y) for each row, and no other `y` beside it. Received: "
            f"tuples of {sorted({len(row) for row in rows})} values, and y={shown(y)}"
        )
    x, y = zip(*rows, strict=True)
    return list(x), list(y)


def _check_targets(table, y):
    first = y
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(first, (int, float, np.number)) and not is_missing(first):
        raise ValueError(
            "`y` must be `None` or texts, from which the labels are made. Received: y of type "
            f"{type(y)}"
        )
    if table.get("decoder_text") is not None:
        raise ValueError(
            "`y` must be `None` where x holds `decoder_text`, from which the labels are made. "
            f"Received: y of type {type(y)}"
        )


def _check_is_no_dict_of_tables(x):
    """The splits of `datasets`, a dict, are several data sets."""
    if isinstance(x, dict) and x and all(is_table(value) for value in x.values()):
        name = next(iter(x))
        raise ValueError(
            f"The data must be one data set. Received: a {type(x).__name__} of {shown(list(x))}. "
            f"Choose one of them, such as data[{shown(name)}]"
        )


def _parse_batch(encoder_text, images, decoder_text):
    count = _row_count(encoder_text, images, decoder_text)
    if count == 0:
        raise ValueError("A batch must have at least one row. Received: an empty batch")
    images = [None] * count if images is None else images
    return [
        Row(
            encoder_text and encoder_text[row],
            _images_of_row(images_of(images[row]), row),
            decoder_text and decoder_text[row],
            row,
        )
        for row in range(count)
    ]


def _row_count(encoder_text, images, decoder_text):
    values = dict(zip(KEYS, (encoder_text, images, decoder_text), strict=True))
    counts = {key: _batch_size(value) for key, value in values.items() if value is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "All values of a batch must have as many rows. Received, in rows, `None` for a value "
            f"that is not one per row: {counts}. Give `images` as a list with `None`, an image or "
            "a list of images for each row"
        )
    return next(iter(counts.values()))


def _batch_size(value):
    return len(value) if isinstance(value, list) or _rank(value) in (4, 5) else None


def _parse_text(x, key, several=False):
    """A string, a list of strings (or of tuples of several), or `None`."""
    text = texts_of(x.get(key), key)
    if isinstance(text, (list, tuple)):
        check = _check_texts if several else _check_text
        return [check(key, texts_of(value, key), row) for row, value in enumerate(text)]
    return None if text is None else _check_text(key, text, row=0)


def _check_texts(key, texts, row):
    check_is_no_tuple(key, texts, row)
    if not isinstance(texts, list):
        return _check_text(key, texts, row)
    if len(texts) == 0:
        raise ValueError(
            f"`{key}` must hold at least one text in each row. Received in row {row}: an empty list"
        )
    return tuple(_check_text(key, text, row) for text in texts)


def check_is_no_tuple(key, texts, row):
    """Raises a `TypeError` for what may be the first targets of all rows, not all of one row."""
    if isinstance(texts, tuple):
        raise TypeError(
            f"Several texts of a row's `{key}` must be a list. Received in row {row}: a tuple, "
            f"{shown(texts)}. A `DataLoader` of torch puts the first texts of all rows into one: "
            "give it `collate_fn=list`"
        )


def _check_text(key, text, row):
    if isinstance(text, str):
        return str(text)
    if is_missing(text):
        raise TypeError(
            f"`{key}` must be a string or a list of strings. Received in row {row}: {shown(text)}, "
            'which stands for nothing. Leave such rows out, or write "" there'
        )
    if not isinstance(text, bytes):
        raise TypeError(
            f"`{key}` must be a string or a list of strings. Received in row {row}: {shown(text)} "
            f"(type {type(text)})"
        )
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{key}` must be UTF-8 where it is bytes. Received in row {row}: {cause(error)}"
        ) from error


def _are_of_rows(images):
    """Whether images without a text are those of several rows."""
    if isinstance(images, list):
        return all(image is None or isinstance(image, (list, tuple)) for image in images)
    return _rank(images) == 5


def _images_of_row(images, row):
    if is_missing(images):
        return []
    if isinstance(images, list):
        images = [images_of(image) for image in images]
        for image in images:
            if image is None or isinstance(image, list):
                raise ValueError(
                    "The images of one row must be one image or a flat list of images. "
                    f"Received in row {row}: a list that holds {shown(image)}"
                )
        return images
    if _rank(images) == 5:
        raise ValueError(
            "The images of one row must be an array of at most 4 dimensions, (images, height, "
            f"width, channels). Received in row {row}: an array of shape {images.shape}"
        )
    return list(images) if _rank(images) == 4 else [images]


def _rank(images):
    return getattr(images, "ndim", None)
