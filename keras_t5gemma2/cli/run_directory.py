"""The directory of a training run: its settings, checkpoints, curves, predictions and results."""

import csv
import dataclasses
import json
import os
import pathlib
import tomllib

import keras
import tomli_w

from keras_t5gemma2.checkpoints.adapter import adapter_card
from keras_t5gemma2.checkpoints.cards import write_card
from keras_t5gemma2.checkpoints.own.files import preset_card
from keras_t5gemma2.files.atomic import atomic_file
from keras_t5gemma2.files.disk import check_writable, local_path
from keras_t5gemma2.messages import cause, shown, shown_path, warn
from keras_t5gemma2.training.checkpoint_states import newest, place_of

CONFIG, HISTORY, CURVES, SUMMARY = "config.toml", "history.csv", "curves.png", "summary.json"
ADAPTER, MODEL = "adapter.safetensors", "model"
# Of the metrics of answers to rows of validation, or to rows that are trained on.
PREFIXES = ("val_", "train_")
# What may differ in a run that is taken up: it trains for longer.
_MAY_DIFFER = ("epochs",)
_PATHS = ("data", "validation", "output", "adapter")


class RunDirectory:
    """A directory that holds all of a run.

    | file | what it is |
    | --- | --- |
    | `config.toml` | the options, to run it again: `t5gemma2 finetune --config config.toml` |
    | `checkpoints/` | the newest state of `TrainingCheckpoint` |
    | `history.csv`, `curves.png` | loss and metrics of each epoch |
    | `predictions/epoch_0.jsonl`, ... | answers before training and after each epoch |
    | `adapter.safetensors` or `model/` | what was trained |
    | `summary.json`, `README.md` | the results, for programs and for readers |

    Args:
        path: path of the directory.
    """

    def __init__(self, path):
        self.path = local_path(path)
        self.checkpoints = self.path / "checkpoints"

    def begin(self, request, resume):
        """Makes the directory and writes the settings, or compares them with those of before.

        Args:
            request: `Request` of `finetune`.
            resume: bool. Whether there is a run to go on with.

        Raises:
            FileExistsError: there are files, and no run is to be taken up.
            FileNotFoundError: there is no run to take up.
            ValueError: it was begun with other settings; the message names one.
        """
        check_writable(self.path)
        settings = settings_of(request)
        if resume:
            self._check_is_same(settings)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                "`--output` must be a new or empty directory. Received: "
                f"{shown_path(self.path)}. Name another, or say --resume to go on with its run"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path / CONFIG) as temporary:
            temporary.write_bytes(tomli_w.dumps(settings).encode())

    def _check_is_same(self, settings):
        before = self._read_settings()
        names = [*before, *(name for name in settings if name not in before)]
        for name in names:
            if before.get(name) != settings.get(name) and name not in _MAY_DIFFER:
                raise ValueError(
                    "A run is taken up with the options that it was begun with. Received: "
                    f"{name} = {shown(settings.get(name))} in place of {shown(before.get(name))}. "
                    f"Say `t5gemma2 finetune --config {self.path / CONFIG} --resume`"
                )

    def _read_settings(self):
        path = self.path / CONFIG
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no run to go on with. Received: {shown_path(self.path)}, without "
                f"{CONFIG}. Leave --resume out to begin one"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{shown_path(path)} must be TOML. Received: {cause(error)}"
            ) from error

    def predictions_path(self):
        """The path of files of predictions, with `{epoch}` in it."""
        folder = self.path / "predictions"
        folder.mkdir(exist_ok=True)
        return str(folder).replace("{", "{{").replace("}", "}}") + os.sep + "epoch_{epoch}.jsonl"

    def history_callback(self):
        """The callback that writes `history.csv`."""
        return History(self.path / HISTORY)

    def how_to_go_on(self):
        """What somebody needs to know who has interrupted the run."""
        found = newest(self.checkpoints)
        state = "nothing is saved yet"
        if found is not None:
            epoch, step = place_of(found)
            state = f"saved is the state after epoch {epoch}" + (f", step {step}" if step else "")
        command = f"t5gemma2 finetune --config {self.path / CONFIG} --resume"
        return f"Interrupted: {state}. Go on with: {command}"

    def draw_curves(self):
        """Writes `curves.png` of `history.csv`, where matplotlib is installed."""
        rows = read_history(self.path / HISTORY)
        if not rows:
            return
        try:
            from matplotlib import figure
        except ImportError:
            warn(
                f"There is no picture of the curves, which are in {self.path / HISTORY}: "
                "matplotlib is not installed. Install it by "
                "`pip install 'keras-t5gemma2[finetune]'`"
            )
            return
        with atomic_file(self.path / CURVES) as temporary:
            _drawn(figure.Figure(figsize=(10, 4), layout="constrained"), rows).savefig(temporary)

    def save(self, request, lm):
        """Writes the adapter or the model. All processes must call this."""
        if request.full:
            lm.save_to_preset(self.path / MODEL)
        else:
            lm.save_adapter(self.path / ADAPTER)

    def describe(self, request, lm, summary):
        """Writes the summary and the card."""
        if request.full:
            card = preset_card(MODEL, lm)
        else:
            card = adapter_card(self.path / ADAPTER, lm.adapters["default"], lm.backbone.source)
        with atomic_file(self.path / SUMMARY) as temporary:
            temporary.write_text(json.dumps(summary, indent=2), encoding="utf-8")
        rows = read_history(self.path / HISTORY)
        last = rows[max(rows)] if rows else {}
        title = self.path.resolve().name
        what = f"{card.what} {_about(request, summary)}"
        write_card(self.path, dataclasses.replace(card, title=title, what=what, metrics=last))

    def listing(self, summary):
        """The files, and what the run has come to, for a terminal."""
        lines = [f"{self.path}: {summary['rows']} rows, {summary['seconds']:.0f} s"]
        lines += [f"  {path.name}" for path in sorted(self.path.iterdir())]
        for name, value in summary["metrics"].items():
            before = summary["metrics_before"].get(name)
            was = "" if before is None else f" (before: {before:.1f})"
            lines.append(f"{name} {value:.1f}{was}")
        trained = self.path / (MODEL if (self.path / MODEL).exists() else ADAPTER)
        is_model = trained.name == MODEL
        use = str(trained) if is_model else f"{summary['preset']} --adapter {trained}"
        return "\n".join([*lines, f'Use it: t5gemma2 generate {use} "..."'])


def settings_of(request):
    """The options of a run as they stand in `config.toml`, without those that are `None`."""
    values = {}
    for name, value in dataclasses.asdict(request).items():
        if value is None or value == () or value == {}:
            continue
        if name in _PATHS or (name == "preset" and os.path.exists(value)):
            value = os.path.abspath(os.path.expanduser(value))
        values[name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    return values


# Curves -----------------------------------------------------------------------------------------


class History(keras.callbacks.Callback):
    """Writes the logs of all epochs to a CSV file, those of an earlier part of the run included.

    Args:
        path: path of the file.
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)
        self.rows = read_history(self.path)

    def on_epoch_end(self, epoch, logs=None):
        row = {name: float(value) for name, value in (logs or {}).items()}
        # An epoch that is run once more replaces itself, and what came after it.
        self.rows = {n: old for n, old in self.rows.items() if n <= epoch} | {epoch + 1: row}
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *names])
            writer.writeheader()
            writer.writerows({"epoch": number, **row} for number, row in self.rows.items())


def read_history(path):
    """The logs of each epoch in a file of `History`, by the number of the epoch."""
    if not pathlib.Path(path).exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        int(row.pop("epoch")): {name: float(value) for name, value in row.items() if value}
        for row in rows
    }


def _drawn(figure, rows):
    """The figure, with the losses at the left and the metrics of generated answers at the right."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    sides = {
        "loss per token": [name for name in names if name in ("loss", "val_loss")],
        "generated answers": [name for name in names if _is_of_answers(name)],
    }
    axes = figure.subplots(1, 2)
    for axis, (title, of_side) in zip(axes, sides.items(), strict=True):
        for name in of_side:
            points = [(epoch, row[name]) for epoch, row in rows.items() if name in row]
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if of_side:
            axis.legend()
    axes[1].set_ylim(-2, 102)
    return figure


def _is_of_answers(name):
    is_of_keras = name.removeprefix("val_") in ("accuracy", "loss", "perplexity")
    return name.startswith(PREFIXES) and not is_of_keras


def _about(request, summary):
    """Sentences of a card about the data and the results."""
    name = pathlib.Path(request.data).name
    text = f"It was trained on {summary['rows']:,} rows of `{name}` for {request.epochs} epochs."
    if not summary["metrics"]:
        return text
    on = "validation rows" if summary["validation_rows"] else "rows of the training data"
    scores = ", ".join(
        f"{name} {value:.1f}"
        + (f" (before: {summary['metrics_before'][name]:.1f})" if summary["metrics_before"] else "")
        for name, value in summary["metrics"].items()
    )
    return f"{text} Generated answers to {on}: {scores}."
