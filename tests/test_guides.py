"""The guides run as they are."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

GUIDES = pathlib.Path(__file__).parent.parent / "guides"


def run(guide, directory):
    environment = {**os.environ, "KERAS_BACKEND": keras.config.backend()}
    result = subprocess.run(
        [sys.executable, GUIDES / guide],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_generate(tmp_path):
    output = run("01_generate.py", tmp_path)
    assert "Spell 4268 in English. → four thousand, two hundred and sixty-eight" in output
    assert "Write 2026-12-17 in French. → 17 décembre 2026" in output
    assert "[image][image]Which number is this? → 42" in output


@pytest.mark.real
@pytest.mark.once
def test_gemma3_weights(tmp_path):
    assert "Mars, Jupiter, Saturn" in run("06_gemma3_weights.py", tmp_path)
