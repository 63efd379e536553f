"""Runs of training in several processes."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from command_line import error_of
from safetensors.numpy import load_file

ROWS = [
    {"encoder_text": f"Spell {n} in Dutch.", "decoder_text": text}
    for n, text in enumerate(["nul", "een", "twee", "drie", "vier", "vijf"])
]
OPTIONS = ("--rank", "2", "--epochs", "2", "--batch-size", "4", "--predictions", "2")


def run(folder, output, *options):
    arguments = ["finetune", "t5gemma2_tiny", str(folder / "rows.jsonl"), *OPTIONS, "--quiet"]
    arguments += ["--max-new-tokens", "8", "--output", str(folder / output), *options]
    return subprocess.run(
        [sys.executable, "-m", "t5gemma2_cli", *arguments],
        env={**os.environ, "XLA_FLAGS": ""},  # a device for each process
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def folder(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(text)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="it is refused there")
def test_two_processes_train_what_one_does(folder):
    for output, options in (("one", ()), ("two", ("--processes", "2"))):
        done = run(folder, output, *options)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Use it: t5gemma2 generate") == 1
    one, two = (load_file(folder / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=2e-4, err_msg=name)
    names = [{path.name for path in (folder / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]
    lines = (folder / "two" / "predictions" / "epoch_2.jsonl").read_text().splitlines()
    assert len(lines) == 2
    # A run goes on, in as many processes, and what cannot begin tells why and ends all.
    done = run(folder, "two", "--processes", "2", "--epochs", "3", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((folder / "two" / "history.csv").read_text().splitlines()) == 4
    done = run(folder, "two", "--processes", "2")
    assert done.returncode and "`--output` must be a new or empty directory" in done.stderr


@pytest.mark.once
def test_tensorflow_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    data, output = folder / "rows.jsonl", folder / "out"
    said = error_of(
        *(capsys, "finetune", "t5gemma2_tiny", data, "--output", output, "--processes", "2"), code=2
    )
    assert "--processes needs JAX or PyTorch. Received: the backend tensorflow" in said
