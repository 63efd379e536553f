"""The benchmark of the loss runs, at sizes that say nothing."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.once
@pytest.mark.slow
def test_a_row_of_numbers():
    command = "--tokens 64 --vocabulary 20000 --width 32 --heads frozen --repeats 1"
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "benchmark_loss.py"), *command.split()],
        env={**os.environ, "KERAS_BACKEND": keras.config.backend(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = result.stdout.splitlines()[-1].split()
    assert row[:2] == ["64", "frozen"] and len(row) == 8
    assert float(row[4]) > 0 and float(row[7]) > 0
