"""Where the files of the repository are, and how a process of its own finds them."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
TOOLS = ROOT / "tools"


def environment(**names):
    """The variables of a process that imports the package and the helpers of tests."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}", **names}
