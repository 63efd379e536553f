"""Training on the rows of a file, all of whose results stand in one directory."""

import dataclasses
import json
import math
import time

import keras

from keras_t5gemma2 import distribution
from keras_t5gemma2.cli import data as files
from keras_t5gemma2.cli import models
from keras_t5gemma2.cli.run_directory import PREFIXES, RunDirectory
from keras_t5gemma2.evaluation.evaluate import EvaluateGeneration
from keras_t5gemma2.evaluation.metrics import metric_functions
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.messages import say, shown
from keras_t5gemma2.training.checkpoint import TrainingCheckpoint

# As `default_optimizer` has them, which is what trains where no rate is given.
_WEIGHT_DECAY, _CLIPNORM = 0.01, 1.0
_SAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `finetune`, as the options of `t5gemma2 finetune` have it."""

    preset: str
    data: str
    output: str
    validation: str | None = None
    validation_split: float | None = None
    columns: dict = dataclasses.field(default_factory=dict)
    limit: int | None = None
    epochs: int = 3
    batch_size: int = 8
    learning_rate: float | None = None
    full: bool = False
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    target: tuple = ()
    rslora: bool = False
    dora: bool = False
    adapter: str | None = None
    gradient_checkpointing: bool = False
    dtype: str | None = None
    quantize: str | None = None
    text_only: bool = False
    encoder_length: int | None = None
    decoder_length: int | None = None
    metrics: tuple = ("exact_match",)
    predictions: int = 100
    max_new_tokens: int | None = None
    save_steps: int | None = None
    seed: int = 0
    backend: str | None = None


def run(out, resume=False, as_json=False, quiet=False, **options):
    """Trains, and tells `out` what stands where.

    Where a launcher has started several processes, each calls this: they train one model, on a part
    of each batch each, and the first one writes.

    Args:
        out: text file.
        resume: bool. Whether to go on with the run in the directory.
        as_json: bool. Whether to print the summary as JSON.
        quiet: bool. Whether to show no progress.
        **options: fields of `Request`.

    Raises:
        FileExistsError: the directory has a run already, or other files.
        ValueError: options contradict each other, or those of the run that is taken up.
    """
    start = time.monotonic()
    request = Request(**{**options, "backend": keras.config.backend()})
    _check(request)
    if processes.join() > 1 and keras.config.backend() == "jax":
        distribution.distribute(request.preset, verbose=processes.index() == 0)
    is_first = processes.index() == 0
    quiet = quiet or not is_first
    training, validation = _rows(request)
    run_directory = RunDirectory(request.output)
    if is_first:
        run_directory.begin(request, resume)
    processes.wait("the directory of the run")
    keras.utils.set_random_seed(request.seed)
    lm = _model(request)
    evaluation = _evaluation(request, training, validation, run_directory, quiet)
    if not validation and request.predictions and is_first:
        say("No validation data: predictions and metrics are of rows that are trained on")
    try:
        _fit(request, lm, training, validation, evaluation, run_directory, quiet)
    except KeyboardInterrupt as error:
        error.add_note(run_directory.how_to_go_on())
        raise
    finally:
        if is_first:
            run_directory.draw_curves()
    summary = _summary(request, lm, training, validation, evaluation, start)
    run_directory.save(request, lm)
    if not is_first:
        return
    run_directory.describe(request, lm, summary)
    print(json.dumps(summary) if as_json else run_directory.listing(summary), file=out)


def _check(request):
    if request.full and request.quantize:
        raise ValueError(
            "`--full` must go without `--quantize`: integers cannot be trained. Received: "
            f"--quantize {request.quantize}. Leave --full out to train an adapter beside them"
        )
    if request.full and request.adapter:
        raise ValueError(
            "`--full` must go without `--adapter`, which would be trained alone. Received: "
            f"--adapter {request.adapter}. Merge it first: t5gemma2 convert --to keras"
        )
    if request.validation and request.validation_split:
        raise ValueError(
            "`--validation` and `--validation-split` must not be given both. Received: "
            f"{request.validation} and {request.validation_split}"
        )
    split = request.validation_split
    if split is not None and not 0 < split < 1:
        raise ValueError(f"`--validation-split` must lie between 0 and 1. Received: {shown(split)}")
    if request.predictions:
        metric_functions(request.metrics)  # before anything is loaded


def _rows(request):
    """The rows to train on, and those to validate on, which may be none."""
    rows = files.read_rows(request.data, request.columns, request.limit)
    if request.validation is not None:
        return rows, files.read_rows(request.validation, request.columns)
    if request.validation_split is None:
        return rows, []
    count = round(len(rows) * request.validation_split)  # the last, as Keras has it
    if not 0 < count < len(rows):
        raise ValueError(
            "`--validation-split` must leave rows on both sides. Received: "
            f"{request.validation_split} of {len(rows)} rows"
        )
    return rows[:-count], rows[-count:]


def _model(request):
    names = ("dtype", "quantize", "text_only", "encoder_length", "decoder_length")
    options = {name: getattr(request, name) for name in names}
    lm = models.load(request.preset, request.adapter, **options)
    lm.backbone.gradient_checkpointing = request.gradient_checkpointing
    if not request.full and request.adapter is None:
        lm.enable_lora(
            request.rank,
            request.alpha,
            request.dropout,
            list(request.target) or "text",
            request.rslora,
            request.dora,
        )
    optimizer = "auto"
    if request.learning_rate is not None:
        options = {"weight_decay": _WEIGHT_DECAY, "global_clipnorm": _CLIPNORM}
        optimizer = keras.optimizers.AdamW(request.learning_rate, **options)
    lm.compile(optimizer, sampler="greedy")
    return lm


def _evaluation(request, training, validation, run_directory, quiet):
    """The callback that generates after each epoch, or `None`."""
    if not request.predictions:
        return None
    return EvaluateGeneration(
        (validation or training)[: request.predictions],
        prefix=PREFIXES[0] if validation else PREFIXES[1],
        predictions_path=run_directory.predictions_path() if processes.index() == 0 else None,
        verbose=0 if quiet else 2,
        samples=0 if quiet else _SAMPLES,
        metrics=list(request.metrics),
        columns=files.checked_columns(request.columns),
        **({} if request.max_new_tokens is None else {"max_new_tokens": request.max_new_tokens}),
    )


def _fit(request, lm, training, validation, evaluation, run_directory, quiet):
    keep = TrainingCheckpoint(
        run_directory.checkpoints, request.save_steps or "epoch", delete_checkpoint=False
    )
    # The state of an epoch is saved once all others have what they need of it.
    history = run_directory.history_callback() if processes.index() == 0 else None
    callbacks = [*filter(None, [evaluation, history]), keep]
    lm.fit(
        training,
        batch_size=request.batch_size,
        epochs=request.epochs,
        validation_data=validation or None,
        columns=files.checked_columns(request.columns),
        callbacks=callbacks,
        verbose=0 if quiet else "auto",
    )


def _summary(request, lm, training, validation, evaluation, start):
    """What a run has come to, plain JSON."""
    results = evaluation.results if evaluation else {}
    last = results[max(results)] if results else None
    return {
        "output": request.output,
        "preset": request.preset,
        "rows": len(training),
        "validation_rows": len(validation),
        "epochs": request.epochs,
        "trained_parameters": sum(math.prod(v.shape) for v in lm.trainable_variables),
        "metrics": dict(last) if last is not None else {},
        "metrics_before": dict(results[0]) if 0 in results else {},
        "seconds": round(time.monotonic() - start, 1),
    }
