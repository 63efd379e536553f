"""A row with the text that is looked at: given as its output or target, or generated."""

import sys
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation.inputs import arrays_of
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.sources import read_rows

# Arguments of `generate` that have no meaning here.
_OF_GENERATE = ("inputs", "encoded", "strip_prompt", "return_scores", "num_return_sequences")


class Written(NamedTuple):
    """One row, and the tokens that come after the decoder's prompt."""

    rows: Any  # `batching.Rows` of this row alone
    token_ids: np.ndarray  # (T,) int32, at least one
    number: int  # of the row

    @property
    def decoder_ids(self):
        """(P,) int32: what the decoder reads, the prompt and all tokens of the text but the last.

        The last T of them are those after which the tokens of the text come.
        """
        return np.concatenate([self.rows.prompts[0], self.token_ids[:-1]]).astype("int32")


def written(lm, row, output, generate):
    """A list of `Written`, and whether there is a single row.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        row: one row, or several, as `generate` or `score` takes them.
        output: a string, a list of ids, or `None`; of several rows a list of such.
        generate: dict of arguments of `generate`.
    """
    for name in _OF_GENERATE:
        if name in generate:
            raise TypeError(f"`{name}` of `generate` cannot be given here. Leave it out")
    if lm.preprocessor is None:
        rows, is_single = _rows_of_arrays(lm, row)
    else:
        rows, is_single = read_rows(row, reads_y=True)
    outputs = _outputs(output, len(rows), is_single)
    with one_warning():
        pairs = zip(rows, outputs, strict=True)
        return [_written(lm, *pair, generate, i) for i, pair in enumerate(pairs)], is_single


def _written(lm, row, output, generate, number):
    if isinstance(row, dict):
        return _of_arrays(lm, row, output, generate, number)
    text = row.decoder_text
    if output is None and not text:
        found = lm.generate([row], return_scores=True, **generate)
        return Written(_encoded(lm, row), found.token_ids[0], number)
    _check_nothing_is_generated(generate)
    if output is None:
        rows = _encoded(lm, row, training=True)
        start, ids = np.split(rows.prompts[0], [1])
        return Written(rows._replace(prompts=[start]), ids, number)
    if isinstance(output, str):
        tokenizer = lm.preprocessor.tokenizer
        output = [*tokenizer(output), tokenizer.end_token_id]
    return Written(_encoded(lm, row), _checked_ids(lm, output), number)


def _encoded(lm, row, training=False):
    """`batching.Rows` of one row; the decoder's text is never cut."""
    limit = {"decoder_sequence_length": sys.maxsize}
    return batching.rows_of_encoded(lm.preprocessor.encode_rows([row], training, **limit)[0])


def _rows_of_arrays(lm, inputs):
    """Per row a dict of arrays of this row alone."""
    arrays, is_single = arrays_of(lm, inputs)
    count = len(arrays["decoder_token_ids"])
    rows = [{name: x[i : i + 1] for name, x in arrays.items()} for i in range(count)]
    return rows, is_single


def _of_arrays(lm, arrays, output, generate, number):
    """As `_written`: the decoder's first token is the prompt, and the others, if any, the text."""
    rows = batching.rows_of_arrays(arrays)
    ids = rows.prompts[0]
    if output is None and len(ids) == 1:
        found = lm.generate(arrays, return_scores=True, **generate)
        return Written(rows, found.token_ids[0], number)
    _check_nothing_is_generated(generate)
    if output is None:
        return Written(rows._replace(prompts=[ids[:1]]), ids[1:], number)
    return Written(rows, _checked_ids(lm, output), number)


def _outputs(output, count, is_single):
    if output is None:
        return [None] * count
    if is_single:
        return [output]
    if isinstance(output, str) or len(output) != count:
        raise ValueError(
            "`output` of several rows must be a list of one text for each. Received: "
            f"{count} rows and output={shown(output)}"
        )
    return list(output)


def _checked_ids(lm, output):
    size = lm.backbone.config.vocabulary_size
    if isinstance(output, str):
        raise ValueError(
            "`output` must be a list of ids where there is no preprocessor, whose tokenizer knows "
            f"those of a text. Received: preprocessor=None, output={shown(output)}"
        )
    ids = [integer(id) for id in to_numpy(output)] if np.ndim(output) == 1 else []
    if not ids or not all(id is not None and 0 <= id < size for id in ids):
        raise ValueError(
            f"`output` must be a string, or a list of at least one id from 0 to {size - 1}. "
            f"Received: output={shown(output)}"
        )
    return np.array(ids, "int32")


def _check_nothing_is_generated(generate):
    if generate:
        raise TypeError(
            "Arguments of `generate` are for a text that is generated, and this one is given. "
            f"Received: {', '.join(generate)}. Leave them out, or leave the text out"
        )
