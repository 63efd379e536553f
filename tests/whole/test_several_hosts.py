"""Two processes of four devices each train, save and take up again what one device would."""

import json
import os
import socket
import subprocess
import sys

import hosts
import keras
import numpy as np
import pytest
from repository import HELPERS, environment

import keras_t5gemma2
from keras_t5gemma2.training.checkpoint_states import newest

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="jax.distributed")


def start(directory, kill_after=None):
    """Starts both processes; the second one dies after so many steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    devices = f"--xla_force_host_platform_device_count={hosts.DEVICES}"
    variables = environment(KERAS_BACKEND="jax", XLA_FLAGS=f"{os.environ['XLA_FLAGS']} {devices}")
    processes = []
    for process in range(2):
        arguments = [str(process), address, str(directory)]
        if process == 1 and kill_after is not None:
            arguments.append(str(kill_after))
        log = open(directory / f"log_{process}", "a")  # noqa: SIM115  the process writes to it
        command = [sys.executable, str(HELPERS / "hosts.py"), *arguments]
        processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
        log.close()
    return processes


@pytest.mark.slow
def test_a_run_on_two_hosts_one_of_which_dies(tmp_path):
    """Losses, adapter and preset are those of one device that was not interrupted."""
    first, second = start(tmp_path, kill_after=3)
    assert second.wait(300) != 0
    first.kill()  # it waits for the other: whoever has started them ends it, and starts both again
    first.wait()
    # The third step may have been saved, and its state may have been left unfinished.
    assert newest(tmp_path / "run").name.startswith("epoch_000001_step_00000000")

    for number, process in enumerate(start(tmp_path)):
        assert process.wait(300) == 0, (tmp_path / f"log_{number}").read_text()[-3000:]
    results = [json.loads((tmp_path / f"result_{i}.json").read_text()) for i in range(2)]
    assert results[0] == results[1]
    assert results[0]["devices"] == 8
    assert "embedder/table/embeddings" in results[0]["spread"]

    lm = hosts.task()
    want = hosts.fit(lm)
    # The history of a run that was taken up has its own epochs.
    assert len(results[0]["history"]["loss"]) == 1
    for name, values in results[0]["history"].items():
        np.testing.assert_allclose(values, want[name][1:], rtol=1e-5, err_msg=name)
    saved = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(tmp_path / "preset")
    other = hosts.task()
    other.load_adapter(tmp_path / "adapter.safetensors")
    for model in (saved, other):
        for ours, theirs in zip(lm.weights, model.weights, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5, err_msg=ours.path)


def test_processes_without_a_distribution_are_refused(monkeypatch):
    from tasks import SMALL_ROWS, small_task

    from keras_t5gemma2.kernels.runtime import processes

    lm = small_task()
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="3 processes and no distribution"):
        lm.fit(SMALL_ROWS, verbose=0)
