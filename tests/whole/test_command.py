"""The command as a whole: its help, its ways to be started, its errors and its ends."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import click
import keras
import pytest
from command_line import error_of
from repository import ROOT, environment

from t5gemma2_cli import COMMANDS, main, running
from t5gemma2_cli.evaluate import METRICS

pytestmark = pytest.mark.once

QUICK = 0.3  # seconds that the help may take
COMMAND = [sys.executable, "-m", "t5gemma2_cli"]


def ran(*arguments, code=0, **names):
    """A process that has ended."""
    done = subprocess.run(
        list(map(str, arguments)),
        env=environment(KERAS_BACKEND=keras.config.backend(), TF_CPP_MIN_LOG_LEVEL="3", **names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


# Help


def test_the_help_lists_all_commands_and_each_has_examples(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    names = [command.name for command in COMMANDS]
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == names
    for name in names:
        assert main([name, "--help"]) == 0
        assert f"t5gemma2 {name}" in capsys.readouterr().out.partition("\n\n")[2]


def test_every_option_and_command_is_described():
    for command in COMMANDS:
        assert command.short_help and command.help
        options = [option for option in command.params if isinstance(option, click.Option)]
        names = {option.name for option in options if not option.help}
        assert names <= {"epochs", "batch_size", "seed", "dtype", "optimizer"}, command.name


def test_the_help_of_all_commands_needs_neither_keras_nor_numpy():
    code = "import sys; from t5gemma2_cli import main, COMMANDS\n"
    code += "for command in COMMANDS: assert main([command.name, '--help']) == 0\n"
    code += "print('loaded', [n for n in ('keras', 'keras_t5gemma2', 'numpy') if n in sys.modules])"
    assert ran(sys.executable, "-c", code).stdout.splitlines()[-1] == "loaded []"


@pytest.mark.slow
def test_the_help_is_quick():
    times = []
    for _ in range(10):
        start = time.perf_counter()
        ran(*COMMAND, "--help")
        times.append(time.perf_counter() - start)
    assert min(times) <= QUICK, times


# Ways to start it


def test_the_script_and_the_wheel_have_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"t5gemma2": "t5gemma2_cli:main"}
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["keras_t5gemma2", "t5gemma2_cli"]


@pytest.mark.slow
def test_the_package_is_the_same_command_with_another_backend_too():
    """Importing it has taken one backend before the option that names another is read."""
    other = "jax" if keras.config.backend() != "jax" else "torch"
    arguments = ["generate", "t5gemma2_tiny", "Spell 42 in German.", "--backend", other]
    done = ran(sys.executable, "-m", "keras_t5gemma2", *arguments)
    assert done.stdout == "zweiundvierzig\n"
    done = ran(sys.executable, "-m", "keras_t5gemma2", "--help")
    assert done.stdout == ran(*COMMAND, "--help").stdout


def test_tools_are_the_same_commands():
    for name in ("convert", "plan"):
        done = ran(sys.executable, ROOT / "tools" / f"{name}.py", "--help")
        assert done.stdout == ran(*COMMAND, name, "--help").stdout


# Backends


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        ({"KERAS_BACKEND": "jax"}, '{"backend": "torch"}', "jax"),
        ({}, '{"backend": "torch"}', "torch"),
        ({}, '{"backend": 3}', "tensorflow"),
        ({}, "{", "tensorflow"),
        ({}, None, "tensorflow"),
    ],
)
def test_the_configured_backend_is_that_of_keras(names, files, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    if files is not None:
        (tmp_path / "keras.json").write_text(files)
    assert running.configured_backend() == expected


def test_a_backend_that_is_not_installed(monkeypatch, capsys):
    found = {"jax": None, "tensorflow": None, "torch": object()}
    monkeypatch.setattr(running.importlib.util, "find_spec", found.get)
    error = error_of(capsys, "plan", "--backend", "jax", code=2)
    assert "The backend of --backend must be installed. Received: jax. Installed: torch" in error
    assert "pip install 'keras-t5gemma2[jax]'`, or say --backend torch" in error


def test_another_backend_than_that_of_this_process(capsys):
    other = "jax" if keras.config.backend() != "jax" else "torch"
    error = error_of(capsys, "plan", "--backend", other, code=2)
    assert f"Set KERAS_BACKEND={other} before Keras is imported" in error


# Ends


def test_wrong_usage_is_no_failure_of_the_program(capsys):
    assert "No such command 'generat'" in error_of(capsys, "generat", code=2)
    assert "Missing argument 'PRESET'" in error_of(capsys, "generate", code=2)


def test_an_error_is_one_line_and_with_debug_the_traceback(capsys):
    error = error_of(capsys, "generate", "t5gemma2_tyni", "a")
    assert error.startswith("error: ") and "Traceback" not in error
    assert "Traceback" in error_of(capsys, "--debug", "generate", "t5gemma2_tyni", "a")


def test_faults_of_the_program_are_not_hidden(monkeypatch):
    monkeypatch.setattr(running, "use_backend", lambda name: {}["fault"])
    with pytest.raises(KeyError):
        main(["plan"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption(number, monkeypatch, capsys):
    def call(name):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(running, "use_backend", call)
    before = signal.getsignal(signal.SIGTERM)
    assert "Interrupted" in error_of(capsys, "plan", code=130)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_nohup_ignores_ends_nothing(monkeypatch):
    def call(name):
        os.kill(os.getpid(), signal.SIGHUP)
        raise KeyError("went on")

    monkeypatch.setattr(running, "use_backend", call)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(KeyError, match="went on"):
            main(["plan"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_of_a_file_is_no_interruption(monkeypatch, capsys):
    def call(name):
        raise EOFError("the file ends early")

    monkeypatch.setattr(running, "use_backend", call)
    assert "error: the file ends early" in error_of(capsys, "plan")


def test_nobody_reads_what_is_written_at_the_end():
    """A few lines wait in Python's buffer until the command is done."""
    code = "import click; from t5gemma2_cli import main, running\n"
    code += "running.use_backend = lambda name: print('a') or click.get_current_context().exit()\n"
    code += "raise SystemExit(main(['plan']))"
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONUNBUFFERED=""),
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_nobody_reads_the_rest():
    command = f"{sys.executable} -m t5gemma2_cli plan t5gemma2_tiny --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=environment(KERAS_BACKEND=keras.config.backend(), TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "["
    assert not re.search("Traceback|error:|Exception", done.stderr), done.stderr


# Choices


def test_choices_are_those_of_the_package():
    from keras_t5gemma2.checkpoints.transformers.writer import DTYPES
    from keras_t5gemma2.evaluation import metrics
    from t5gemma2_cli import options

    assert set(options.DTYPES) == set(DTYPES)
    assert METRICS == metrics.METRICS
