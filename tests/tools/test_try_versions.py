"""The tool that tries Pythons and releases; what it installs is replaced by scripts."""

import subprocess

import pytest
import try_versions

pytestmark = pytest.mark.once


def interpreter(home, name, says):
    path = home / "versions" / name / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_is_the_one_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(try_versions.shutil, "which", lambda name: None)
    assert try_versions.find_python("3.12", tmp_path) is None
    interpreter(tmp_path, "3.12.1", "")
    assert try_versions.find_python("3.12", tmp_path) is None  # a stub
    right = interpreter(tmp_path, "3.12.2", "3.12")
    assert try_versions.find_python("3.12", tmp_path) == right


def outcome(monkeypatch, failing, message):
    """What comes of an environment of which one step fails, and the steps."""
    steps = []

    def run(command, *rest):
        steps.append(command)
        code = int(len(steps) - 1 == failing)
        return subprocess.CompletedProcess(command, code, "", message * code)

    monkeypatch.setattr(try_versions, "_run", run)
    return try_versions.tried("python", "jax", try_versions.LOWEST), steps


def test_the_steps_of_an_environment(monkeypatch):
    found, (venv, install, check) = outcome(monkeypatch, None, "")
    assert found == "passed" and venv[1:3] == ["-m", "venv"]
    assert f"{try_versions.ROOT}[jax]" in install and "keras==3.15.0" in install
    assert not any(part.startswith("torch") for part in install)
    assert check[-1] == try_versions.CHECK


@pytest.mark.parametrize(
    ("failing", "message", "want"),
    [
        (1, "ERROR: a\nERROR: No matching distribution found for jax==9", "skipped: No matching"),
        (1, "ERROR: it broke", "failed: ERROR: it broke"),
        (2, "Traceback\nAssertionError: drei", "failed: AssertionError: drei"),
        (2, "ERROR: No matching distribution found", "failed: "),
        (0, "", "failed: no message"),
    ],
)
def test_what_is_not_found_is_skipped_and_all_else_fails(failing, message, want, monkeypatch):
    found, steps = outcome(monkeypatch, failing, message)
    assert found.startswith(want) and len(steps) == failing + 1


def test_the_table_and_the_status(monkeypatch, capsys):
    monkeypatch.setattr(try_versions, "find_python", {"3.11": "python"}.get)
    results = iter(["passed", "failed: a"])
    monkeypatch.setattr(try_versions, "tried", lambda *arguments: next(results))
    options = ["--pythons", "3.11", "3.14", "--backends", "jax"]
    assert try_versions.main(options) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines == [
        "| 3.11 | jax | lowest | passed |",
        "| 3.11 | jax | highest | failed: a |",
        "| 3.14 | jax | lowest | skipped: python3.14 was not found |",
        "| 3.14 | jax | highest | skipped: python3.14 was not found |",
    ]


def test_where_all_is_skipped_nothing_has_passed(monkeypatch):
    monkeypatch.setattr(try_versions, "find_python", lambda version: None)
    assert try_versions.main(["--pythons", "3.11", "--backends", "jax"]) == 1


@pytest.mark.slow
def test_the_check_passes_here():
    exec(try_versions.CHECK, {})
