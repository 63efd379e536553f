"""The wheel, in an environment that has nothing else."""

import subprocess
import sys
import zipfile

import pytest
from repository import ROOT


@pytest.mark.once
@pytest.mark.slow
def test_the_wheel_answers_in_a_clean_environment(tmp_path):
    """Packages come from the index, so that this takes minutes, and needs it."""
    variables = {"PYTHON": sys.executable, "DIST": tmp_path / "dist", "WHEEL_ENV": tmp_path / "env"}
    command = ["make", "wheel", *(f"{name}={value}" for name, value in variables.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "viertausendzweihundertachtundsechzig"
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0].split("-")[0] for name in names}
    assert roots == {"keras_t5gemma2", "t5gemma2_cli"}
    assert "keras_t5gemma2/embedded/t5gemma2_tiny/model.weights.h5" in names
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
