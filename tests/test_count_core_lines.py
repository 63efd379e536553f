"""The count of the lines that are read from config to generated text."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))
import count_core_lines


@pytest.mark.once
def test_every_file_that_is_counted_is_there(capsys):
    count_core_lines.main()
    *lines, total = capsys.readouterr().out.splitlines()
    assert sum(int(line.split()[0]) for line in lines) == int(total.split()[0])
    stems = {path.stem for path in count_core_lines.PACKAGE.joinpath("generation").glob("*.py")}
    assert set(count_core_lines.NOT_OF_EVERY_CALL) <= stems
