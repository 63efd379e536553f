"""The command as a process: it answers, and ends in peace."""

import re
import signal
import subprocess
import sys
import threading

import httpx
import keras
import pytest
from command_line import error_of
from repository import environment
from served import client_of

from keras_t5gemma2.cli.serve import name_of

TINY = ("serve", "t5gemma2_tiny")
OPTIONS = ("--port", "0", "--api-key", "k", "--max-tokens", "60")


def started(*arguments):
    """The process of a server, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "t5gemma2_cli", *TINY, *arguments],
        env=environment(KERAS_BACKEND=keras.config.backend(), TF_CPP_MIN_LOG_LEVEL="3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if found := re.search(r"running on (http://[\d.:]+)", line):
            return process, found[1]
    raise AssertionError(process.wait())


@pytest.mark.slow
def test_what_is_asked_is_answered_before_it_ends():
    process, address = started(*OPTIONS)
    try:
        client = client_of(address, "k")
        assert [model.id for model in client.models.list()] == ["t5gemma2_tiny"]
        options = {"model": "t5gemma2_tiny", "prompt": "Spell 42 in German."}
        stream = client.completions.create(**options, stream=True, max_tokens=32)
        pieces = [next(iter(stream)).choices[0].text]
        process.send_signal(signal.SIGTERM)
        pieces += [event.choices[0].text for event in stream]
        assert "".join(pieces) == "zweiundvierzig"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        assert process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
    finally:
        process.kill()


@pytest.mark.once
def test_the_name_tells_no_path():
    assert name_of("/home/me/secret/model") == "model" and name_of("t5gemma2_tiny")


@pytest.mark.once
def test_errors(capsys, monkeypatch):
    module = sys.modules["t5gemma2_cli.serve"]
    assert "--max-tokens" in error_of(capsys, *TINY, "--max-tokens", "0", code=2)
    monkeypatch.setattr(module, "_NEEDED", ("starlette", "no_such_library"))
    error = error_of(capsys, *TINY, code=2)
    assert "Received: no no_such_library" in error and "keras-t5gemma2[serve]" in error
