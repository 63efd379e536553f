"""How close the answers of a model come to the references in a file."""

import json

from keras_t5gemma2.cli import data as files
from keras_t5gemma2.cli import models
from keras_t5gemma2.evaluation.evaluate import evaluate_generation
from keras_t5gemma2.evaluation.metrics import metric_functions
from keras_t5gemma2.files.disk import check_writable, local_path


def run(
    out,
    preset,
    data,
    columns=None,
    limit=None,
    metrics=("exact_match",),
    with_loss=False,
    base=None,
    base_adapter=None,
    predictions=None,
    beams=None,
    max_new_tokens=None,
    batch_size=None,
    adapter=None,
    as_json=False,
    quiet=False,
    **options,
):
    """Prints a table, or JSON, of the metrics to `out`.

    Args:
        out: text file.
        preset: string, as `models.load` has it.
        data: path of a file of rows.
        columns: dict of renamed columns, or `None`.
        limit: int. The most rows, or `None`.
        metrics: names, as `evaluate_generation` has them.
        with_loss: bool. Whether to give the loss per token, too.
        base: string, another preset to compare with, or `None`.
        base_adapter: path of an adapter for it, or `None`.
        predictions: path of a file that gets a line of JSON per row, or `None`.
        beams: int, of beam search, or `None` for greedy choice.
        max_new_tokens: int or `None`.
        batch_size: int, by default 32.
        adapter: path or `None`, as `models.load` has it.
        as_json: bool.
        quiet: bool. Whether to show no progress.
        **options: further arguments of `models.load`.
    """
    metric_functions(metrics)  # before anything is loaded
    if base_adapter is not None and base is None:
        raise ValueError(
            "`--base-adapter` must go with `--base`, the preset that it is for. Received: "
            f"--base-adapter {base_adapter}"
        )
    if predictions is not None:
        check_writable(local_path(predictions).parent)
    rows = files.read_rows(data, columns, limit)
    chosen = models.sampler_of(beams=beams)
    lms = [models.load(preset, adapter, **options)]
    if base is not None:
        lms.append(models.load(base, base_adapter, **options))
    for lm in lms:
        lm.compile(sampler=chosen)
    verbose = 0 if quiet else "auto"
    columns = files.checked_columns(columns)
    found = {}
    if with_loss:
        shared = {"batch_size": batch_size, "columns": columns, "return_dict": True}
        found = lms[0].evaluate(rows, verbose=verbose, **shared)
    result = evaluate_generation(
        lms[0],
        rows,
        batch_size=batch_size or 32,
        metrics=list(metrics),
        base=lms[1] if base is not None else None,
        predictions_path=predictions,
        verbose=verbose,
        columns=columns,
        **({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}),
    )
    print(_as_json(result, found) if as_json else _as_text(result, found), file=out)


def _as_json(result, of_tokens):
    values = {"rows": result.rows, "metrics": dict(result)}
    if of_tokens:
        values["tokens"] = {name: float(value) for name, value in of_tokens.items()}
    if result.base is not None:
        values["base"] = dict(result.base)
    return json.dumps(values)


def _as_text(result, of_tokens):
    lines = [f"{name} {float(value):.4g}" for name, value in of_tokens.items()]
    return "\n".join([str(result), *lines])
