"""What a token classifier's data set is made of: texts with a label for each word."""

import dataclasses

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.array_checks import IGNORED
from keras_t5gemma2.preprocessing.containers import texts_of
from keras_t5gemma2.preprocessing.words import Words, joined_words, places_of_words, words_of
from keras_t5gemma2.training.label_preparation import (
    LabelPreparation,
    are_parsed,
    is_class,
    list_of,
)


@dataclasses.dataclass(frozen=True)
class WordPreparation(LabelPreparation):
    """Makes the arrays of a token classifier's step.

    A row's text is a string, whose words stand between white space, or a list of words. Its
    labels are one for each word; the word's first token gets it, and all others none.
    """

    def parsed(self, x, y=None):
        if are_parsed(x):
            return x, y
        rows, words = self.rows_and_words(x, y)
        return rows, None if words[0].labels is None else words

    def rows_and_words(self, x, y=None):
        """A list of `Row`, and a list of `Words`."""
        table, y = self.table_of(x, y)
        texts, spans = texts_of(table.get("encoder_text"), "encoder_text"), None
        if isinstance(texts, (list, tuple)) and any(isinstance(t, (list, tuple)) for t in texts):
            pairs = [_text_and_spans(text, number) for number, text in enumerate(texts)]
            texts, spans = map(list, zip(*pairs, strict=True))
            table = {**table, "encoder_text": texts}
        rows, y = self.with_labels(table, y)
        labels = [None] * len(rows) if y is None else y
        if spans is None:
            marker = getattr(self.preprocessor.tokenizer, "start_of_image_token", None)
            spans = [words_of(row.encoder_text, marker) for row in rows]
        return rows, [Words(*pair) for pair in zip(spans, labels, strict=True)]

    def labels(self, y, rows, x):
        lengths = np.asarray(x["encoder_padding_mask"]).sum(axis=1)
        found = np.full(x["encoder_token_ids"].shape, IGNORED, "int32")
        places = places_of_words(self.preprocessor, rows, y, lengths)
        for number, (row, words, of_row) in enumerate(zip(rows, y, places, strict=True)):
            labels = self._labels_of_row(row, words)
            is_there = of_row >= 0
            # Of words that share a token, the first one's.
            for place, label in zip(of_row[is_there], labels[is_there], strict=True):
                if found[number, place] == IGNORED:
                    found[number, place] = label
        return found

    def _labels_of_row(self, row, words):
        labels = np.asarray(list_of(words.labels))
        if len(labels) != len(words.spans):
            text = row.encoder_text or ""
            named = [text[start:end] for start, end in words.spans]
            raise ValueError(
                f"There must be a label for each word. Received in row {row.number}: "
                f"{len(labels)} labels and {len(named)} words, {shown(named)}"
            )
        if len(labels) and not (labels.ndim == 1 and is_class(labels, self.num_classes, IGNORED)):
            raise ValueError(
                f"Labels must be integers from 0 to {self.num_classes - 1}, or {IGNORED} for a "
                f"word without one. Received in row {row.number}: {shown(words.labels)}"
            )
        return labels.astype("int32")

    def labels_of_arrays(self, y, x):
        if self.has_own_loss:
            return y
        shape = np.shape(x["encoder_token_ids"])
        if y.shape != shape or not is_class(y, self.num_classes, IGNORED):
            raise ValueError(
                f"Labels of arrays must be of shape {shape}, that of the ids, and integers from 0 "
                f"to {self.num_classes - 1}, or {IGNORED} where there is none. Received: {shown(y)}"
            )
        return y.astype("int32")


def _text_and_spans(text, number):
    if isinstance(text, (list, tuple)):
        return joined_words(text, number)
    return text, words_of(text)
