"""The guides run as they are."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

GUIDES = pathlib.Path(__file__).parent.parent / "guides"


@pytest.mark.real
@pytest.mark.once
def test_generate():
    environment = {**os.environ, "KERAS_BACKEND": keras.config.backend()}
    result = subprocess.run(
        [sys.executable, GUIDES / "01_generate.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Mars, Jupiter, Saturn" in result.stdout
    assert "three rows with 1, 2 and 0 images" in result.stdout
