"""The benchmark of heads runs, and both heads write the same."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.once
def test_both_heads_are_measured():
    found = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tools" / "benchmark" / "head.py")),
            *("--layers", "1", "--length", "16", "--tokens", "33", "36", "--repeats", "1"),
        ],
        env={**os.environ, "KERAS_BACKEND": keras.config.backend(), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert "the same tokens; HeadSteps(screened=138, full=0)" in found.stdout
