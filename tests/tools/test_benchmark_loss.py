"""The benchmark of the loss runs, at sizes that say nothing."""

import subprocess
import sys

import keras
import pytest
from repository import TOOLS, environment


@pytest.mark.once
@pytest.mark.slow
def test_a_row_of_numbers():
    command = "--tokens 64 --vocabulary 20000 --width 32 --heads frozen --repeats 1"
    result = subprocess.run(
        [sys.executable, str(TOOLS / "benchmark" / "loss.py"), *command.split()],
        env=environment(KERAS_BACKEND=keras.config.backend()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = result.stdout.splitlines()[-1].split()
    assert row[:2] == ["64", "frozen"] and len(row) == 8
    assert float(row[4]) > 0 and float(row[7]) > 0
