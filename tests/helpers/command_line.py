"""The command `t5gemma2`, run in the process of the test."""

import json

from t5gemma2_cli import main


def run(*arguments):
    """Runs the command, which must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def printed(capsys, *arguments):
    """What the command prints to stdout, once it has succeeded."""
    capsys.readouterr()
    run(*arguments)
    return capsys.readouterr().out


def parsed(capsys, *arguments):
    """The objects of JSON that the command prints, one on each line."""
    return [json.loads(line) for line in printed(capsys, *arguments).splitlines()]


def error_of(capsys, *arguments, code=1):
    """What the command says on stderr as it fails."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    found = capsys.readouterr()
    assert found.out == ""
    return found.err
