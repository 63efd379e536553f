"""How a command runs: which backend, what goes to stdout, and how it ends.

What few runs need is imported where they need it: `--help` waits for each import up here.
"""

import contextlib
import errno
import importlib.util
import os
import signal
import sys
import threading

import click

BACKENDS = ("jax", "tensorflow", "torch")
# What users can mend: others are faults of the program, and show their traceback.
_TOLD = (ValueError, TypeError, ImportError, OSError, MemoryError)


def run_command(group, arguments, restarts):
    """Runs a `click.Group` and returns the exit status, as `t5gemma2_cli.main` has it."""
    arguments = sys.argv[1:] if arguments is None else [os.fspath(text) for text in arguments]
    program = "t5gemma2"
    try:
        with _ended_by_signals():
            settings = {"arguments": arguments, "restarts": restarts}
            code = group.main(arguments, program, standalone_mode=False, obj=settings)
            print(end="", flush=True)  # at the exit nobody could answer an error
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # in place of an interruption, or of an EOFError
        end = _failed if isinstance(error.__cause__, EOFError) else _interrupted
        return end(error.__cause__, arguments)
    except KeyboardInterrupt as error:
        return _interrupted(error, arguments)
    except OSError as error:
        if error.errno == errno.EPIPE:  # as of `| head`: nobody reads the rest
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        return _failed(error, arguments)
    except _TOLD as error:
        return _failed(error, arguments)


def call(name, backend=None, **options):
    """Calls `run` of `keras_t5gemma2/cli/NAME.py` with the options, on a backend.

    `run` also gets `out`, the real stdout, for results. All else that is printed, progress of
    Keras included, goes to stderr, so that another program can read the results.

    Args:
        name: string, of the file.
        backend: string, or `None` for that of Keras's settings.
        **options: of `run`.
    """
    use_backend(backend)
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(f"keras_t5gemma2.cli.{name}").run(out=out, **options)


def needed_by(extra):
    """The names of the distributions that an extra of the package installs.

    Args:
        extra: string.

    Returns:
        List of strings; of a package that is read where it is and not installed, an empty one.
    """
    import re
    from importlib import metadata

    try:
        lines = metadata.requires("keras-t5gemma2") or ()
    except metadata.PackageNotFoundError:
        return []
    mark = re.compile(rf"""extra\s*==\s*['"]{extra}['"]""")
    return [re.match(r"[\w.-]+", line)[0] for line in lines if mark.search(line)]


# Backends ---------------------------------------------------------------------------------------


def use_backend(name):
    """Sets the backend that Keras is about to be imported with.

    Args:
        name: string, or `None` for the one that Keras's own settings say.

    Raises:
        click.UsageError: it is not installed, or Keras has been imported with another.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    chosen = name or configured_backend()
    if importlib.util.find_spec(chosen) is None:
        there = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
        where = "of --backend" if name else "that Keras chooses (KERAS_BACKEND, or its config file)"
        raise click.UsageError(
            f"The backend {where} must be installed. Received: {chosen}. Installed: "
            f"{', '.join(there) or 'none'}. Install it by "
            f"`pip install 'keras-t5gemma2[{chosen}]'`"
            + (f", or say --backend {there[0]}" if there else "")
        )
    if name is None:
        return
    if "keras" in sys.modules and sys.modules["keras"].config.backend() != name:
        _start_anew(name)
    os.environ["KERAS_BACKEND"] = name


def configured_backend():
    """The backend that Keras will take: of KERAS_BACKEND, its config file, or TensorFlow."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    import json

    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    with contextlib.suppress(OSError, ValueError), open(os.path.join(home, "keras.json")) as file:
        settings = json.load(file)
        if isinstance(settings, dict) and isinstance(settings.get("backend"), str):
            return settings["backend"]
    return "tensorflow"


def _start_anew(backend):
    settings = click.get_current_context().find_root().obj or {}
    if not settings.get("restarts"):
        raise click.UsageError(
            "Keras has been imported with another backend in this process. Received: "
            f"--backend {backend}. Set KERAS_BACKEND={backend} before Keras is imported"
        )
    command = [sys.executable, "-m", "t5gemma2_cli", *settings["arguments"]]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    if os.name == "nt":  # where a process that is replaced returns to the prompt at once
        import subprocess

        raise click.exceptions.Exit(subprocess.call(command, env=environment))
    os.execve(command[0], command, environment)


# Ends -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ended_by_signals():
    """Inside, SIGTERM and SIGHUP end the command as Ctrl-C does: `with` blocks clean up.

    A signal that is ignored stays so: `nohup` ignores SIGHUP for a run to outlive the terminal.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(error, arguments):
    """What has been done, as the notes of the interruption tell."""
    notes = getattr(error, "__notes__", None) or ["Interrupted"]
    print("\n" + "\n".join(notes), file=sys.stderr, flush=True)
    return 130


def _failed(error, arguments):
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    notes = getattr(error, "__notes__", [])
    print("\n".join([f"error: {text}", *notes]), file=sys.stderr, flush=True)
    return 1
