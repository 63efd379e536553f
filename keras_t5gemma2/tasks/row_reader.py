"""Rows of text and images through the encoder, a batch at a time, compiled once a size."""

import numpy as np

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation.calls import Call
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.model.array_checks import check_inputs
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import length_of_row
from keras_t5gemma2.preprocessing.sources import are_arrays, read_rows
from keras_t5gemma2.sharding.batch import row_parts, to_devices

_ROWS_AT_A_TIME = 32
# Tokens that short rows are padded to: queries and names are of few.
_SHORTEST = 16
# Nothing is cached and nothing is drawn.
_CALL = Call("auto", "auto", "auto", None, (), None)


class RowReader:
    """Reads rows with the encoder of a model.

    Args:
        model: a Keras model with a `backbone` and a `preprocessor` or `None`, such as
            `T5Gemma2TextEmbedder`.

    Attributes:
        programs: `compiled_steps.Programs`, or `None` where all is to be compiled anew.
    """

    run = None  # as a `Generator` has it; a reader gives no function for that place

    def __init__(self, model):
        self.model, self.programs = model, None

    def prepare(self):
        """Refuses a model of a process that this one is a copy of."""
        kernels.check_process(self.model.made_in_process)

    def rows(self, texts, images=None, prompt=""):
        """A list of `Row`, the prompt before each text; or arrays as they are.

        Args:
            texts: what `parse_rows` takes, or where there is no preprocessor a dict of arrays.
            images: one per row, as `parse_rows` takes them, or `None`.
            prompt: string.
        """
        if self.model.preprocessor is None or are_arrays(texts):
            arrays = {name: to_numpy(value) for name, value in of_encoder(dict(texts)).items()}
            check_inputs(arrays, self.model.backbone.config, ("encoder",))
            return arrays
        x = texts if images is None else {"encoder_text": texts, "images": images}
        rows, _ = read_rows(x)
        return [self._with_prompt(row, prompt) for row in rows] if prompt else rows

    def read(self, rows, function, key, batch_size=None, length=None):
        """`function(inputs)` of all rows, a batch of similar rows at a time.

        Args:
            rows: what `rows` gave.
            function: from a dict of the encoder's inputs to a tensor (batch, ...). What it
                computes may hang on `key` and the model alone.
            key: a tuple that begins with what the function does.
            batch_size: int or `None`.
            length: int, what each row is padded to and cut at; `None` for the longest of its
                batch.

        Returns:
            A list of the numbers of the rows of a batch, their mask and the outputs, as arrays.
            Rows that fill a batch up come again.
        """
        batch_size, length = checked(batch_size=batch_size, length=length)
        run, found = program(self, key, lambda: lambda _, x: function(x), _CALL), []
        with one_warning():
            for numbers, arrays in self._batches(rows, batch_size or _ROWS_AT_A_TIME, length):
                outputs = processes.whole(run((), to_devices(arrays)))
                mask = np.asarray(arrays["encoder_padding_mask"], bool)
                found.append((numbers, mask, outputs))
        return found

    def _batches(self, rows, batch_size, length):
        if isinstance(rows, dict):
            _check_length(rows["encoder_token_ids"], length)
            lengths = rows["encoder_padding_mask"].sum(axis=1).tolist()
            for numbers in batching.sorted_batches(lengths, batch_size, row_parts()):
                yield numbers, {name: value[numbers] for name, value in rows.items()}
            return
        preprocessor = self.model.preprocessor
        if length is None:  # or rows are cut at another length than `check_rows` knows
            preprocessor.check_rows(rows, training=False)
        lengths = [length_of_row(row) for row in rows]
        for numbers in batching.sorted_batches(lengths, batch_size, row_parts()):
            some = [rows[i] for i in numbers]
            found, _ = preprocessor.encode_rows(some, encoder_sequence_length=length)
            longest = max(len(ids) for ids in found.encoder_ids)
            width = batching.size_of(longest, _SHORTEST) if length is None else length
            arrays = batching.pad_encoder(batching.rows_of_encoded(found), width)
            seen = {k: v for k, v in arrays.items() if k not in batching.SEEN or v.shape[1]}
            yield numbers, seen

    def _with_prompt(self, row, prompt):
        text = row.encoder_text
        if not text and row.images:  # as an input of images alone has it
            marker = self.model.preprocessor.tokenizer.start_of_image_token
            text = " ".join([marker] * len(row.images))
        return row._replace(encoder_text=prompt + (text or ""))


def _check_length(ids, length):
    if length not in (None, ids.shape[1]):
        raise ValueError(
            "`length` must be left out or that of the arrays where arrays are given. Received: "
            f"length={length}, encoder_token_ids of shape {ids.shape}"
        )


def joined(batches, count):
    """One array of all rows in their order, of pairs of numbers and outputs."""
    rows = {}
    for numbers, outputs in batches:
        rows |= zip(numbers, outputs, strict=True)
    return np.stack([rows[number] for number in range(count)])
