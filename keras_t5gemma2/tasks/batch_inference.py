"""What a model makes of batches of rows, for engines that run it on many machines."""

import inspect
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_t5gemma2.arguments import check_known
from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.columns import DIALOGUE_KEYS, KEYS, Columns
from keras_t5gemma2.preprocessing.containers import is_table, names_of
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.text_embedder import T5Gemma2TextEmbedder
from keras_t5gemma2.typing import CallSettings, ColumnNames, PathLike

# Of each call: the class that has it, its method, and the column that it adds.
_CALLS = {
    "generate": (T5Gemma2Seq2SeqLM, "generate", "output"),
    "embed": (T5Gemma2TextEmbedder, "encode_text", "embedding"),
    "score": (T5Gemma2Seq2SeqLM, "score", "score"),
}
# What says which rows are read, or gives more than a value for each row.
_NOT_OPTIONS = {"self", "inputs", "columns", "encoded", "return_scores", "texts", "images"}
_NOT_OPTIONS |= {"per_token", "is_greedy"}

# The last model that a process has loaded: engines make an object anew for each part of the data.
_loaded: dict[str, Any] = {}
_lock = threading.Lock()


class BatchInference:
    """A function of a batch of rows that gives them with one more column, what a model makes of it.

    It is what `map_batches` of Ray Data, `mapInPandas` of Spark (`over`) and `FlatMap` of Apache
    Beam take, which read the data, start the processes, and begin again where one was lost. An
    object holds no model: it can be sent to other processes, where its first batch loads one, which
    stays. Rows keep their order and all their columns.

    Args:
        preset: string or path, as `from_preset` of the task takes it; each machine must reach it.
        call: "generate", "embed" or "score": the method `generate` or `score` of
            `T5Gemma2Seq2SeqLM`, or `encode_text` of `T5Gemma2TextEmbedder`.
        output: string or `None`. The name of the new column: by default "output" (a string; a list
            of them with `num_return_sequences`), "embedding" (float32) or "score" (a number).
        columns: dict from names of the data to those that are read, as `generate` has it.
        load: dict of arguments of `from_preset`, such as `{"dtype": "bfloat16"}`, or `None`.
        **options: arguments of the method, such as `max_new_tokens`, `temperature` or `prompt`.

    Raises:
        TypeError: an argument is not known.
        ValueError: `call` is not known, or `columns` gives a name that is not read.

    Example:

    >>> spell = keras_t5gemma2.BatchInference(
    ...     "t5gemma2_tiny", columns={"question": "encoder_text"}, temperature=0, max_new_tokens=16
    ... )
    >>> spell({"id": [7], "question": ["Spell 42 in German."]})
    {'id': [7], 'question': ['Spell 42 in German.'], 'output': ['zweiundvierzig']}
    """

    def __init__(
        self,
        preset: PathLike,
        call: str = "generate",
        output: str | None = None,
        columns: ColumnNames | None = None,
        load: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if call not in _CALLS:
            raise ValueError(f"`call` must be one of {tuple(_CALLS)}. Received: call={shown(call)}")
        cls, method, column = _CALLS[call]
        check_known("BatchInference", options, _options_of(getattr(cls, method)))
        self.preset, self.call = str(preset), call
        self.output = column if output is None else output
        self.renames = Columns(columns).renames
        self.load, self.options = dict(load or {}), options

    def __call__(self, batch: Any) -> Any:
        """The batch with its new column.

        Args:
            batch: dict of columns (lists or arrays), `pandas.DataFrame`, `pyarrow.Table`, or list
                of dicts, which are rows.

        Returns:
            A new batch of the same kind.

        Raises:
            ValueError: the batch has a column of the name `output` already, or none that is read.

        Example:

        >>> embed = keras_t5gemma2.BatchInference("t5gemma2_tiny", "embed", dimensions=8)
        >>> embed({"encoder_text": ["seven", "sept"]})["embedding"].shape
        (2, 8)
        """
        is_rows = isinstance(batch, list) and all(isinstance(row, dict) for row in batch)
        if not is_rows and not isinstance(batch, dict) and not is_table(batch):
            raise TypeError(
                "A batch must be a dict of columns, a data frame, an Arrow table or a list of "
                f"dicts. Received: {shown(batch)}"
            )
        if len(batch) == 0:
            return batch
        names = list(batch[0] if is_rows else names_of(batch) if is_table(batch) else batch)
        if self.output in names:
            raise ValueError(
                f"`output` must be the name of no column that the data have: {shown(names)}. "
                f"Received: output={shown(self.output)}"
            )
        read = {name: self.renames.get(name, name) for name in names}
        known = {old: new for old, new in read.items() if new in (*KEYS, *DIALOGUE_KEYS)}
        table = {
            new: [row[old] for row in batch] if is_rows else _plain(batch[old])
            for old, new in (known or read).items()
        }
        return _with_column(batch, self.output, self._values(table))

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields each of several batches with its new column, as Spark's `mapInPandas` asks for it.

        Args:
            batches: iterable of what a call takes.

        Example:

        >>> score = keras_t5gemma2.BatchInference("t5gemma2_tiny", "score")
        >>> batch = {"encoder_text": ["Spell 42 in German."], "decoder_text": ["zweiundvierzig"]}
        >>> for scored in score.over([batch]):
        ...     print(scored["score"].shape)
        (1,)
        """
        for batch in batches:
            yield self(batch)

    def __repr__(self) -> str:
        options = "".join(f", {name}={shown(value)}" for name, value in self.options.items())
        return f"BatchInference({self.preset!r}, {self.call!r}{options})"

    def _values(self, table):
        cls, method, _ = _CALLS[self.call]
        options = dict(self.options)
        if self.call == "generate":
            options = {"verbose": 0, **options}
        return getattr(_model(cls, self.preset, self.load), method)(table, **options)


def _options_of(method):
    names = set(inspect.signature(method).parameters)
    if "settings" in names:
        names = names - {"settings"} | set(CallSettings.__annotations__)
    return sorted(names - _NOT_OPTIONS)


def _model(cls, preset, load):
    """The model, loaded where this process has another one or none."""
    key = f"{cls.__name__} {preset} {sorted(load.items())}"
    with _lock:
        if key not in _loaded:
            _loaded.clear()  # before the next one takes its room
            _loaded[key] = cls.from_preset(preset, **load)
        return _loaded[key]


def _plain(column):
    """A list, of any column of a table."""
    if hasattr(column, "to_pylist"):
        return column.to_pylist()
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _with_column(batch, name, values):
    """A copy of a batch with one more column."""
    if isinstance(batch, dict):
        return {**batch, name: values}
    rows = list(values)
    if isinstance(batch, list):
        return [{**row, name: value} for row, value in zip(batch, rows, strict=True)]
    if hasattr(batch, "append_column"):  # of Arrow
        lists = [v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for v in rows]
        return batch.append_column(name, [lists])
    return batch.assign(**{name: rows})
