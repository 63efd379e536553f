"""A command that runs in several processes of this machine."""

import os
import socket
import subprocess
import sys

import click

from t5gemma2_cli.running import configured_backend, use_backend

# Of `keras.distribution.initialize`.
_ADDRESSES, _COUNT, _INDEX = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


def together(count, backend):
    """Runs this command again in several processes, and ends with their exit status.

    Args:
        count: int, how many.
        backend: string, or `None` for that of Keras's settings.

    Raises:
        click.UsageError: the backend is TensorFlow.
        click.exceptions.Exit: they have ended.
    """
    use_backend(backend)
    chosen = backend or configured_backend()
    # What comes last counts: each of them is one process, whatever a file of options says.
    arguments = [*click.get_current_context().find_root().obj["arguments"], "--processes=1"]
    environment = {**os.environ, "KERAS_BACKEND": chosen}
    command = [sys.executable, "-m", "t5gemma2_cli", *arguments]
    if chosen == "torch":
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        launcher += ["-m", "t5gemma2_cli", *arguments]
        commands = [([sys.executable, *launcher], environment)]
    elif chosen == "jax":
        place = {_ADDRESSES: f"127.0.0.1:{_free_port()}", _COUNT: str(count)}
        commands = [(command, {**environment, **place, _INDEX: str(n)}) for n in range(count)]
    else:
        raise click.UsageError(
            "--processes needs JAX or PyTorch. Received: the backend tensorflow. Say --backend "
            "torch; or leave it out: on TensorFlow, tf.distribute trains in Python"
        )
    raise click.exceptions.Exit(_run(commands))


def _run(commands):
    """Waits for several processes, and ends all where one has failed; the first status but 0."""
    running = [subprocess.Popen(words, env=environment) for words, environment in commands]
    try:
        while running:
            for process in list(running):
                try:
                    status = process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
                running.remove(process)
                if status:
                    return status
        return 0
    except KeyboardInterrupt:  # which the terminal has sent to them, too
        for process in running:
            process.wait()
        return 130
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
