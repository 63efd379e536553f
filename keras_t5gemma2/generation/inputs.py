"""What `generate` is given, as batches of rows of ids; and what it may generate for each row.

The functions take the model for its preprocessor, which may be `None`, and for its sizes.
"""

import sys

import numpy as np

from keras_t5gemma2.generation import batching
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.array_checks import SIDES, check_inputs
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import Row, length_of_row
from keras_t5gemma2.preprocessing.sources import are_arrays, read_arrays, read_rows

_ROWS_AT_A_TIME = 32


def read(model, inputs, columns):
    """All rows of the inputs, or without a preprocessor arrays; whether it was a single row."""
    if inputs is None:
        return None, False
    if model.preprocessor is None:
        Columns(columns).check_is_not_needed()
        return read_arrays(inputs), False
    return read_rows(inputs, Columns(columns))


def batches_of(model, inputs, is_single, encoded, batch_size, parts):
    """Per batch the numbers of its rows and what `rows_of` takes; whether there is one row."""
    if inputs is None:
        inputs = _prompts_of_encoded(model, encoded)
    if model.preprocessor is None:
        return _batches_of_arrays(model, inputs, encoded, batch_size, parts)
    if encoded is not None:  # its rows belong together
        return [(range(len(inputs)), inputs)], is_single and len(encoded) == 1
    size = _ROWS_AT_A_TIME if batch_size is None else batch_size
    batches = batching.sorted_batches([length_of_row(row) for row in inputs], size, parts)
    return [(indices, [inputs[i] for i in indices]) for indices in batches], is_single


def _batches_of_arrays(model, inputs, encoded, batch_size, parts):
    arrays, is_single = arrays_of(model, inputs, encoded)
    count = len(arrays["decoder_token_ids"])
    if encoded is not None:
        return [(range(count), arrays)], is_single
    lengths = arrays["encoder_padding_mask"].sum(axis=1).tolist()
    size = _ROWS_AT_A_TIME if batch_size is None else batch_size
    batches = batching.sorted_batches(lengths, size, parts)
    if len(batches) == 1 and len(batches[0]) == count:
        return [(range(count), arrays)], is_single
    batches = [(batch, {name: x[batch] for name, x in arrays.items()}) for batch in batches]
    return batches, is_single


def arrays_of(model, inputs, encoded=None):
    """Arrays of rows that have been checked, and whether they came as one row without an axis.

    They are as the backbone takes them; only the decoder's where the rest is encoded already.
    """
    if not are_arrays(inputs):
        raise ValueError(
            "Without a preprocessor the inputs must be arrays as the model takes them, such as "
            f"`decoder_token_ids`. Received: preprocessor=None, and {shown(inputs)}"
        )
    arrays = {name: to_numpy(value) for name, value in inputs.items()}
    if is_single := arrays["decoder_token_ids"].ndim == 1:
        arrays = {name: array[None] for name, array in arrays.items()}
    sides = SIDES if encoded is None else SIDES[1:]
    check_inputs(arrays, model.backbone.config, sides)
    return arrays, is_single


def _prompts_of_encoded(model, encoded):
    if encoded is None or model.preprocessor is None:
        raise ValueError(
            "`inputs` may be `None` where `encoded` is given and a preprocessor knows the "
            f"start token. Received: inputs=None, encoded={shown(encoded)}, "
            f"preprocessor={shown(model.preprocessor)}"
        )
    return [Row(None, [], None, number) for number in range(len(encoded))]


def rows_of(model, inputs, encoded=None):
    """`batching.Rows`, of which only the prompts are there if the rest is encoded already."""
    if model.preprocessor is None:
        arrays, is_single = arrays_of(model, inputs, encoded)
        if encoded is not None:
            prompts = batching.prompts_of_arrays(arrays)
            return batching.rows_of_prompts(prompts), is_single
        return batching.rows_of_arrays(arrays), is_single
    if encoded is not None:
        inputs = [row._replace(encoder_text=None, images=[]) for row in inputs]
    # A prompt is never cut: one that leaves no room is an error.
    rows, is_single = model.preprocessor.encode_rows(inputs, decoder_sequence_length=sys.maxsize)
    return batching.rows_of_encoded(rows), is_single


def budgets(model, inputs, rows, max_length, max_new_tokens):
    """Per row, how many tokens to generate."""
    if max_new_tokens is not None and max_length is None:
        budgets = [max_new_tokens] * len(rows.prompts)
    else:
        if max_length is None and model.preprocessor is None:
            max_length = np.shape(inputs["decoder_token_ids"])[-1]
        elif max_length is None:
            max_length = model.preprocessor.decoder_sequence_length
            max_new_tokens = batching.NEW_TOKENS
        budgets = [max_length - len(prompt) for prompt in rows.prompts]
        if max_new_tokens is not None:
            budgets = [min(budget, max_new_tokens) for budget in budgets]
    for row, (prompt, budget) in enumerate(zip(rows.prompts, budgets, strict=True)):
        if len(prompt) == 0:
            raise ValueError(
                "A decoder prompt must have at least one token, the start token. "
                f"Received: an empty prompt in row {row}."
            )
        if budget < 1:
            raise ValueError(
                "There must be room for at least one new token. Received: "
                f"max_length={shown(max_length)}, max_new_tokens={shown(max_new_tokens)}, and "
                f"in row {row} "
                f"a decoder prompt of {len(prompt)} tokens. Give a larger limit."
            )
    return budgets


def stop_token_ids(model, stop_token_ids):
    """A tuple of the ids that end a row, or `None`; of "auto" those of the preprocessor."""
    size = model.backbone.config.vocabulary_size
    stop_token_ids = checked(vocabulary_size=size, stop_token_ids=stop_token_ids)
    if stop_token_ids != "auto":
        return stop_token_ids
    if model.preprocessor is None:
        raise ValueError(
            '`stop_token_ids="auto"` needs a preprocessor: its tokenizer knows the end token. '
            "Received: preprocessor=None. Pass the ids, or `None` to go on to `max_length`."
        )
    return model.preprocessor.stop_token_ids


def check_all(model, batches, limits):
    """Raises what any batch would, before the first one is generated."""
    if model.preprocessor is None:
        return
    rows = [row for _, part in batches for row in part]
    # Prompts are never cut.
    inputs = [row._replace(decoder_text=None) for row in rows]
    model.preprocessor.check_rows(inputs, training=False)
    prompts = [row._replace(encoder_text=None, images=[]) for row in rows if row.decoder_text]
    if prompts:
        budgets(model, prompts, rows_of(model, prompts)[0], *limits)
