"""The benchmark of runtimes runs, and onnxruntime writes the same tokens."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(keras.config.backend() != "torch", reason="torch writes ONNX")
def test_both_sides_are_measured():
    found = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tools" / "benchmark" / "runtimes.py")),
            *("--modes", "int4/32", "--tokens", "6", "--repeats", "1"),
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert "6 of 6 tokens the same" in found.stdout
