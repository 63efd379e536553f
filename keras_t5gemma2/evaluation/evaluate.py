"""Evaluation by generating: texts for a set of rows, compared with their references."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_t5gemma2.evaluation.metrics import METRICS, metric_functions
from keras_t5gemma2.evaluation.run import Run, read, table_of_samples
from keras_t5gemma2.messages import shown, warn
from keras_t5gemma2.options import checked, counted
from keras_t5gemma2.typing import ColumnNames, Generates, Inputs, PathLike, Verbose


def evaluate_generation(
    lm: Generates,
    data: Inputs,
    batch_size: int = 32,
    metrics: Sequence[str | Callable[..., Any]] = METRICS,
    base: Generates | Callable[..., list[str]] | None = None,
    predictions_path: PathLike | None = None,
    normalize: Callable[[str], str] | None = None,
    bleu_tokenizer: str = "13a",
    rouge_tokenizer: Callable[[str], list[str]] | None = None,
    verbose: Verbose = "auto",
    on_interrupt: Literal["auto", "return", "raise"] = "auto",
    columns: ColumnNames | None = None,
    **generate_options: Any,
) -> "Evaluation":
    """How close the texts that a model generates come to the references.

    An interruption (Ctrl-C, or the stop button of a notebook) keeps what was done: the file of
    predictions, and the metrics of the rows so far; see `on_interrupt`.

    Args:
        lm: `T5Gemma2Seq2SeqLM`, or anything else with its `generate`.
        data: rows as `fit` takes them, or a tuple of texts and their references; a data set is
            read to its end. A row's `decoder_text` is its reference or a list of several.
            `decoder_prompt` may hold per row what the decoder continues; it does not belong to
            the prediction. Dialogues too, as `messages`, or `prompt` and `completion`: the model
            reads what comes before the last answer of each, which is its reference.
        batch_size: int. The most rows that are generated at once.
        metrics: names among "exact_match", "chrf", "bleu" (both by sacrebleu), "rouge" (by
            rouge-score) and "anls"; see `text_metrics`. The libraries come with the extra
            `evaluation`, and only those of the metrics that are asked for are needed. Or
            functions of your own of `(predictions, references)`, a list of strings and a list of
            lists of strings, that give a number, which is named after the function, or a dict of
            numbers by name.
        base: what to compare with, on the same rows: another task, such as the model before
            fine-tuning, or a function that is called as `lm.generate`, with a list of rows
            (which have `encoder_text`, `images` and `decoder_text`, the prompt).
        predictions_path: string or path-like. A file, written over, that gets a line of JSON per
            row as soon as its batch is done: `index` in `data`, `input`, `images` (how many),
            `references`, `prediction`, `exact`, and with `base` `base_prediction` and
            `base_exact`. Rows of similar length are generated together, so the lines are not in
            the order of `data`.
        normalize: function of a string, for predictions and references before all metrics.
        bleu_tokenizer: string, sacrebleu's `tokenize`. "13a" splits at spaces and punctuation;
            for Chinese, Japanese or Thai give "zh", "ja-mecab", "char" or "flores200".
        rouge_tokenizer: function that gives a string's list of tokens. By default words of
            letters and digits of any script; for languages without spaces give `list`.
        verbose: 0, 1 (or "auto") for a progress bar, or 2 for a line at the end.
        on_interrupt: "return" the result of the rows so far, with a warning, or "raise" the
            `KeyboardInterrupt` with their metrics as a note. "auto" returns in notebooks and at
            Python's prompt, and raises in scripts, so that Ctrl-C stops them.
        columns: dict from names of the data's columns to those that are read, such as
            `{"question": "encoder_text", "answer": "decoder_text"}`.
        **generate_options: as `generate` has them: `max_new_tokens`, `max_length` and
            `stop_token_ids`.

    Returns:
        `Evaluation`: a dict of each metric's name and value, from 0 to 100 (ROUGE is `rouge1`,
        `rouge2` and `rougeL`), which prints as a table.

    Raises:
        ValueError: for no rows, numbers of rows that differ, a row without a reference or an
            unknown metric.
        TypeError: `data` has no references, a reference is no string, or a metric gives no number.
        ImportError: if a metric's library is not installed.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> rows = {"encoder_text": ["Spell 42 in German."], "decoder_text": ["zweiundvierzig"]}
    >>> print(keras_t5gemma2.evaluate_generation(lm, rows, metrics=["exact_match"], verbose=0))
           rows  exact_match
    model     1        100.0
    """
    if on_interrupt not in ("auto", "return", "raise"):
        raise ValueError(
            "`on_interrupt` must be 'auto', 'return' or 'raise'. Received: "
            f"on_interrupt={shown(on_interrupt)}"
        )
    batch_size = _checked_options(batch_size, generate_options)
    functions = metric_functions(metrics, bleu_tokenizer, rouge_tokenizer)
    run = Run([lm] if base is None else [lm, base], read(data, columns), normalize)
    try:
        run.generate(batch_size, predictions_path, verbose, generate_options)
    except KeyboardInterrupt as error:
        if not run.texts:
            raise
        result = _result(run, functions)
        summary = f"Interrupted after {result.rows} of {len(run.rows)} rows\n{result}"
        # `ps1` is the prompt of somebody who types, in notebooks too.
        if on_interrupt == "raise" or (on_interrupt == "auto" and not hasattr(sys, "ps1")):
            error.add_note(summary)
            raise
        warn(summary)
        return result
    return _result(run, functions)


class Evaluation(dict):
    """Metrics by name, from 0 to 100, and what they come from; prints as a table.

    Attributes:
        predictions: list of strings in the order of the data; `None` for a row that was not
            generated because of an interruption.
        base: the `Evaluation` of the model to compare with on the same rows, or `None`.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> rows = {"encoder_text": ["Spell 42 in German."], "decoder_text": ["zweiundvierzig"]}
    >>> result = keras_t5gemma2.evaluate_generation(lm, rows, metrics=["exact_match"], verbose=0)
    >>> result["exact_match"], result.predictions, result.rows
    (100.0, ['zweiundvierzig'], 1)
    """

    def __init__(
        self, metrics: Any, predictions: Sequence[str | None], base: "Evaluation | None" = None
    ) -> None:
        super().__init__(metrics)
        self.predictions, self.base = predictions, base

    @property
    def rows(self) -> int:
        """The number of rows that the metrics are of."""
        return sum(prediction is not None for prediction in self.predictions)

    def __str__(self) -> str:
        results = {"model": self, "base": self.base}
        lines = [["", "rows", *self]]
        for name, result in results.items():
            if result is not None:
                values = [f"{value:.1f}" for value in result.values()]
                lines.append([name, str(result.rows), *values])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )


class EvaluateGeneration(keras.callbacks.Callback):
    """Puts the metrics of generated texts into the logs of `fit`.

    `History`, `EarlyStopping` and others see them under `prefix` and the metric's name, such as
    `val_exact_match`; a callback that acts on them must come later in `callbacks`. In epochs
    without an evaluation they are absent.

    Args:
        data: as `evaluate_generation` takes it.
        every: int. Epochs from one evaluation to the next; the last epoch of `fit` has one
            anyway.
        prefix: string.
        baseline: bool. Whether to evaluate before training too, for `results[0]`, which is the
            `base` of all later results.
        predictions_path: string or path-like. A name with `{epoch}` in it gives a file for each
            evaluation, 0 for the one before training; without, the last one stays.
        verbose: 0, 1 or 2, as of `evaluate_generation`; except for 0, the table is printed after
            each evaluation.
        samples: int. Rows, the first of the data, of which inputs, targets and outputs are printed
            as a table after each evaluation.
        **options: further arguments of `evaluate_generation`, those of `generate` among them.

    Attributes:
        results: dict of the `Evaluation` after so many epochs.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> evaluation = keras_t5gemma2.EvaluateGeneration(rows, metrics=["exact_match"])
    >>> history = lm.fit(rows, callbacks=[evaluation], verbose=0)
    >>> sorted(evaluation.results)
    [0, 1]
    """

    def __init__(
        self,
        data: Inputs,
        every: int = 1,
        prefix: str = "val_",
        baseline: bool = True,
        predictions_path: PathLike | None = None,
        verbose: int = 0,
        samples: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        every, samples = counted("every", every), counted("samples", samples, least=0)
        # What is wrong with it shows before training; and it may be something to read once.
        data = read(data, options.pop("columns", None))
        metric_functions(options.get("metrics", METRICS))
        _checked_options(options.get("batch_size"), options)
        self.samples = samples
        self.data, self.every, self.prefix, self.baseline = data, every, prefix, baseline
        self.predictions_path, self.verbose, self.options = predictions_path, verbose, options
        self.results: dict[int, Evaluation] = {}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.results = {}
        if self.baseline:
            self._evaluate(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        epochs = epoch + 1
        if epochs % self.every and epochs != self.params["epochs"]:
            return
        result = self._evaluate(epochs)
        if logs is not None:
            logs.update({self.prefix + name: value for name, value in result.items()})

    def _evaluate(self, epochs):
        path = self.predictions_path
        result = evaluate_generation(
            self.model,
            self.data,
            predictions_path=path and str(path).format(epoch=epochs),
            verbose=self.verbose,
            # A stop of the evaluation alone would let `fit` go on.
            on_interrupt="raise",
            **self.options,
        )
        if result.base is None:
            result.base = self.results.get(0)
        if self.verbose:
            print(f"\n{result}")
        if self.samples:
            print(f"\n{table_of_samples(self.data, result.predictions, self.samples)}")
        self.results[epochs] = result
        return result


_ROWS_AT_A_TIME = 32
_CHECKED = ("max_length", "max_new_tokens", "stop_token_ids", "num_return_sequences")


def _checked_options(batch_size, options):
    """The batch size, after a look at it and at what `generate` would refuse."""
    for name in _CHECKED:
        if name in options:
            checked(**{name: options[name]})
    if options.get("num_return_sequences", 1) != 1:
        raise ValueError(
            "`num_return_sequences` must be 1: one prediction of each row is evaluated. Received: "
            f"num_return_sequences={options['num_return_sequences']}"
        )
    return checked(batch_size=batch_size) or _ROWS_AT_A_TIME


def _result(run, functions):
    results = []
    for predictions in run.predictions():
        pairs = run.pairs(predictions)
        metrics = [item for function in functions for item in function(*pairs).items()]
        results.append(Evaluation(metrics, predictions))
    results[0].base = results[1] if len(results) > 1 else None
    return results[0]
