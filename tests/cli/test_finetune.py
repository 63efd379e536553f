"""Runs of training, from a file to a directory."""

import csv
import json
import re
import tomllib

import keras
import numpy as np
import pytest
from command_line import error_of, parsed, printed, run
from safetensors.numpy import load_file

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.cli import finetune

pytestmark = pytest.mark.once

ROWS = [
    ("Spell 7 in Dutch.", "zeven"),
    ("Spell 8 in Finnish.", "kahdeksan"),
    ("Spell 9 in Finnish.", "yhdeksän"),
    ("Spell 2 in Dutch.", "twee"),
]
CONFIG = """
preset = "t5gemma2_tiny"
data = "{data}"
output = "{output}"
rank = 2
target = ["query", "value"]
validation-split = 0.25
epochs = 2
batch_size = 2
learning-rate = 0.01
max-new-tokens = 8
[columns]
question = "encoder_text"
answer = "decoder_text"
"""
TINY = ("finetune", "t5gemma2_tiny")


def write_rows(path):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *ROWS])
    return path


def write_config(folder, output):
    path = folder / "finetune.toml"
    path.write_text(CONFIG.format(data=folder / "rows.csv", output=output))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the rows and a run of two epochs."""
    path = tmp_path_factory.mktemp("finetune")
    write_rows(path / "rows.csv")
    run("finetune", "--config", write_config(path, path / "run"), "--quiet")
    return path


def scores(summary):
    """As a text says them."""
    after, before = (summary[name]["exact_match"] for name in ("metrics", "metrics_before"))
    return f"exact_match {after:.1f} (before: {before:.1f})"


def test_a_run_leaves_all_that_comes_of_it(folder):
    found = {path.relative_to(folder / "run").as_posix() for path in (folder / "run").rglob("*")}
    assert found == {
        *("config.toml", "history.csv", "curves.png", "summary.json", "README.md"),
        *("adapter.safetensors", "adapter.md", "checkpoints", "predictions"),
        *(f"predictions/epoch_{number}.jsonl" for number in range(3)),
        "checkpoints/epoch_000002_step_000000000",
        "checkpoints/epoch_000002_step_000000000/model.safetensors",
        "checkpoints/epoch_000002_step_000000000/state.json",
    }
    with (folder / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert {"val_loss", "val_exact_match"} <= set(rows[0])
    (line,) = (folder / "run" / "predictions" / "epoch_0.jsonl").read_text().splitlines()
    assert json.loads(line)["references"] == ["twee"]


def test_the_adapter_is_the_one_that_was_trained(folder):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    rows = {"encoder_text": [ROWS[1][0]], "decoder_text": [ROWS[1][1]]}
    before = lm.evaluate(rows, verbose=0, return_dict=True)["loss"]
    lm.load_adapter(folder / "run" / "adapter.safetensors")
    assert lm.adapters["default"]["rank"] == 2
    assert {path.split("/")[-1] for path in lm.adapters["default"]["target"]} == {"query", "value"}
    assert lm.evaluate(rows, verbose=0, return_dict=True)["loss"] < before


def test_the_card_and_the_summary_say_what_was_done(folder):
    card = (folder / "run" / "README.md").read_text()
    assert "trained on 3 rows of `rows.csv` for 2 epochs. Generated answers to validation" in card
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert scores(summary) in card and "| val_loss |" in card
    assert (summary["rows"], summary["validation_rows"], summary["epochs"]) == (3, 1, 2)


@pytest.mark.slow
def test_the_settings_make_the_same_run_again(folder):
    settings = tomllib.loads((folder / "run" / "config.toml").read_text())
    assert settings["columns"] == {"question": "encoder_text", "answer": "decoder_text"}
    assert settings["backend"] == keras.config.backend() and settings["learning-rate"] == 0.01
    options = ("--output", folder / "again", "--predictions", "0", "--quiet")
    run("finetune", "--config", folder / "run" / "config.toml", *options)
    first, second = (load_file(folder / name / "adapter.safetensors") for name in ("run", "again"))
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_interrupted_run_is_taken_up(folder, capsys, monkeypatch):
    output = folder / "interrupted"
    config = write_config(folder, output)
    options = ("--config", config, "--predictions", "0", "--quiet")

    class Interrupts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    fit = T5Gemma2Seq2SeqLM.fit

    def interrupted(*args, callbacks, **kwargs):
        return fit(*args, callbacks=[*callbacks, Interrupts()], **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(T5Gemma2Seq2SeqLM, "fit", interrupted)
        error = error_of(capsys, "finetune", *options, code=130)
    command = f"t5gemma2 finetune --config {output / 'config.toml'} --resume"
    assert f"saved is the state after epoch 1. Go on with: {command}" in error
    assert not (output / "adapter.safetensors").exists() and (output / "curves.png").exists()
    assert "must be a new or empty directory" in error_of(capsys, "finetune", *options)
    error = error_of(capsys, "finetune", *options, "--resume", "--rank", "3")
    assert "Received: rank = 3 in place of 2" in error
    run("finetune", "--config", output / "config.toml", "--resume", "--quiet")
    first = load_file(folder / "run" / "adapter.safetensors")
    for name, value in load_file(output / "adapter.safetensors").items():
        np.testing.assert_allclose(value, first[name], rtol=1e-5, atol=1e-6)
    assert (output / "history.csv").read_text().count("\n") == 3


@pytest.mark.slow
def test_all_weights(folder, capsys):
    columns = ("--column", "question=encoder_text", "--column", "answer=decoder_text")
    options = ("--full", "--epochs", "1", "--limit", "2", "--predictions", "0")
    output = folder / "whole {epoch}"
    arguments = (folder / "rows.csv", "--output", output, *columns, *options)
    (summary,) = parsed(capsys, *TINY, *arguments, "--json", "--quiet")
    assert summary["trained_parameters"] > 1_500_000 and summary["rows"] == 2
    assert T5Gemma2Seq2SeqLM.from_preset(output / "model").count_params() == 2_050_976
    assert not (output / "adapter.safetensors").exists()


@pytest.mark.slow
def test_rows_of_training_stand_for_those_of_validation_and_that_is_said(folder, capsys):
    columns = ("--column", "question=encoder_text", "--column", "answer=decoder_text")
    options = ("--epochs", "1", "--limit", "2", "--predictions", "1", "--adapter")
    output = folder / "without {epoch}"
    adapter = folder / "run" / "adapter.safetensors"
    arguments = (folder / "rows.csv", "--output", output, *columns, *options, adapter)
    text = printed(capsys, *TINY, *arguments)
    assert scores(json.loads((output / "summary.json").read_text())) in text
    assert f"t5gemma2 generate t5gemma2_tiny --adapter {output}" in text
    assert len(list((output / "predictions").iterdir())) == 2
    assert "rows of the training data: exact_match" in (output / "README.md").read_text()
    assert "train_exact_match" in (output / "history.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--full", "--quantize", "int8"], "`--full` must go without `--quantize`.* int8"),
        (["--full", "--adapter", "a"], "`--full` must go without `--adapter`.* --adapter a"),
        (["--validation", "a", "--validation-split", "0.5"], "must not be given both"),
        (["--validation-split", "1.5"], "must lie between 0 and 1. Received: 1.5"),
        (["--validation-split", "0.01"], "must leave rows on both sides. Received: 0.01 of 4"),
        (["--resume"], "There is no run to go on with. Received: .*new"),
    ],
)
def test_errors(options, message, folder, capsys):
    output = folder / "new"
    error = error_of(capsys, *TINY, folder / "rows.csv", "--output", output, *options)
    assert re.search(message, error) and not output.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "Received: 'epoch'; did you mean 'epochs'?"),
        ("epochs = 2.5", "epochs in .* must be an integer. Received: 2.5"),
        ("full = 'yes'", "full in .* must be true or false. Received: 'yes'"),
        ("epochs = true", "epochs in .* must be an integer. Received: True"),
        ("[rank]\na = 1", "rank in .* must be an integer. Received: {'a': 1}"),
        ("data = 77", "data in .* must be a string. Received: 77"),
        ("target = ['query', 3]", "target in .* must be a string. Received: 3"),
        ("dropout = [0.5]", "dropout in .* must be a plain value. Received: .0.5"),
        ("epochs", "must be TOML"),
        (
            "preset = 'a'\ndata = 'b'\noutput = 'c'\nmetrics = ['accuracy']",
            "'accuracy' is not one of 'exact_match'",
        ),
    ],
)
def test_errors_of_a_config_file(text, message, tmp_path, capsys):
    path = tmp_path / "finetune.toml"
    path.write_text(text)
    assert re.search(message, error_of(capsys, "finetune", "--config", path, code=2))


def test_the_command_line_goes_before_the_file(tmp_path, monkeypatch):
    taken = {}
    monkeypatch.setattr(finetune, "run", lambda **options: taken.update(options))
    path = write_config(tmp_path, tmp_path / "run")
    run("finetune", "other", "--config", path, "--rank", "7", "--column", "a=images")
    assert (taken["preset"], taken["rank"], taken["epochs"]) == ("other", 7, 2)
    assert taken["data"] == str(tmp_path / "rows.csv") and taken["columns"] == {"a": "images"}
    assert taken["target"] == ("query", "value") and taken["metrics"] == ("exact_match",)
