"""A tokenizer as a part of a graph of TensorFlow: ids of strings, and strings of ids."""

import re

from keras_t5gemma2.messages import cause

_BORDER = b"\xff"  # which stands in no text in UTF-8
_TEXT_OF_BYTES = 65_533  # the character for what is no UTF-8


class GraphText:
    """Token ids of strings, and strings of token ids, by operations of TensorFlow.

    tensorflow-text runs the SentencePiece model. It reads control tokens in a text as any other
    text, so a text is split at them first, as the tokenizer does it.

    Args:
        data: bytes of a SentencePiece model.
        added: dict of the ids of the pieces that are found in a text as they stand.
        texts: list of bytes, what each id is written as.

    Raises:
        ImportError: tensorflow-text is not installed.
    """

    def __init__(self, data, added, texts):
        tensorflow_text = _library()
        import tensorflow as tf

        self._tf = tf
        self._pieces = tensorflow_text.SentencepieceTokenizer(data, out_type=tf.int32)
        # The longest first: of two that begin alike, the longer is meant.
        self._added = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
        values = [tf.constant([*each]) for each in (added.keys(), added.values())]
        pairs = tf.lookup.KeyValueTensorInitializer(*values)
        self._ids = tf.lookup.StaticHashTable(pairs, default_value=-1)
        self._texts = tf.constant(texts)

    @property
    def resources(self):
        """Objects of TensorFlow that a SavedModel keeps beside variables."""
        return self._pieces, self._ids

    def encode(self, texts):
        """Token ids of texts, a ragged int32 tensor of shape (rows, None).

        Args:
            texts: string tensor of shape (rows,), in UTF-8.
        """
        tf = self._tf
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="strict")
        texts = tf.strings.regex_replace(texts, f"({self._added})", _BORDER + rb"\1" + _BORDER)
        parts = tf.strings.split(texts, _BORDER)
        found = self._ids.lookup(parts.flat_values)
        is_added = found >= 0
        added = tf.RaggedTensor.from_row_lengths(found[is_added], tf.cast(is_added, "int64"))
        others = self._pieces.tokenize(tf.where(is_added, "", parts.flat_values))
        ids = tf.concat([added, others], axis=1)  # of each part, one of the two is empty
        return tf.RaggedTensor.from_row_splits(ids, parts.row_splits).merge_dims(1, 2)

    def decode(self, ids, is_kept, end):
        """The texts of ids, a string tensor of shape (rows,).

        Args:
            ids: int32 tensor of shape (rows, length).
            is_kept: bool tensor of that shape, which of them are written.
            end: string. A text ends before it; "" for none.
        """
        tf = self._tf
        parts = tf.where(is_kept, tf.gather(self._texts, ids), "")
        texts = tf.strings.reduce_join(parts, axis=1)
        texts = tf.strings.unicode_transcode(
            texts, "UTF-8", "UTF-8", errors="replace", replacement_char=_TEXT_OF_BYTES
        )
        return tf.strings.regex_replace(texts, f"(?s){re.escape(end)}.*", "") if end else texts

    def checked(self, texts, forbidden):
        """Texts, or an error where one holds what stands for an image.

        Args:
            texts: string tensor of shape (rows,).
            forbidden: list of strings.
        """
        tf = self._tf
        checks = [
            tf.debugging.assert_equal(
                tf.strings.regex_full_match(texts, f"(?s).*{re.escape(token)}.*"),
                False,
                f"A text must not hold {token}: no images are read here",
            )
            for token in forbidden
        ]
        with tf.control_dependencies(checks):
            return tf.identity(texts)

    def padded(self, ids, start, pad, most):
        """Ids with a start token before each row, padded at the right, and their mask.

        Args:
            ids: ragged int32 tensor.
            start: int, an id.
            pad: int, an id.
            most: int. What is longer, with its start token, is an error.
        """
        tf = self._tf
        ids = tf.concat([tf.fill([ids.nrows(), 1], start), ids], axis=1)
        longest = tf.reduce_max(ids.row_lengths())
        message = f"A text must have at most {most} tokens, its start token included"
        is_short = tf.debugging.assert_less_equal(longest, tf.constant(most, "int64"), message)
        with tf.control_dependencies([is_short]):
            return ids.to_tensor(pad), tf.ones_like(ids).to_tensor()


def signature():
    """The input of `generate`: any number of strings."""
    import tensorflow as tf

    return tf.TensorSpec([None], tf.string, name="texts")


def _library():
    try:
        import tensorflow_text
    except ImportError as error:
        raise ImportError(
            "`strings=True` needs tensorflow-text of the installed TensorFlow. Received: "
            f"{cause(error)}. Install it with `pip install tensorflow-text`"
        ) from error
    return tensorflow_text
