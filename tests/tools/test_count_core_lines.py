"""The count of the lines that are read from config to generated text."""

import count_core_lines
import pytest


@pytest.mark.once
def test_every_file_that_is_counted_is_there(capsys):
    count_core_lines.main()
    *lines, total = capsys.readouterr().out.splitlines()
    assert sum(int(line.split()[0]) for line in lines) == int(total.split()[0])
    stems = {path.stem for path in count_core_lines.PACKAGE.joinpath("generation").glob("*.py")}
    assert set(count_core_lines.NOT_OF_EVERY_CALL) <= stems
