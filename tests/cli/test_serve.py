"""The command as a process: it answers, and ends in peace."""

import inspect
import re
import signal
import subprocess
import sys
import threading
import tomllib

import httpx
import keras
import numpy as np
import pytest
import yaml
from command_line import error_of, run
from repository import ROOT, environment
from served import client_of
from starlette.testclient import TestClient

import keras_t5gemma2
from keras_t5gemma2.cli import serve as module
from keras_t5gemma2.cli.serve import GRACE, name_of
from keras_t5gemma2.serving.engine import Engine
from keras_t5gemma2.serving.limits import Limits
from t5gemma2_cli.running import needed_by

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
    command = sys.modules["t5gemma2_cli.serve"]
    assert "--max-tokens" in error_of(capsys, *TINY, "--max-tokens", "0", code=2)
    monkeypatch.setattr(command, "needed_by", {"serve": ["starlette", "no-such-library"]}.get)
    error = error_of(capsys, *TINY, code=2)
    assert "Received: no no_such_library" in error and "keras-t5gemma2[serve]" in error


@pytest.mark.once
def test_what_the_extra_needs_is_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert needed_by("serve") == project["optional-dependencies"]["serve"]


@pytest.mark.once
def test_the_command_has_the_defaults_of_the_library():
    command = {
        option.name: option.default for option in sys.modules["t5gemma2_cli.serve"].serve.params
    }
    limits, engine = Limits(), inspect.signature(Engine).parameters
    found = [command[f"max_{name}"] for name in ("tokens", "texts", "images")]
    assert found == [limits.max_tokens, limits.texts, limits.images]
    assert (command["max_body"] << 20, command["timeout"]) == (limits.body_bytes, limits.seconds)
    assert command["rows"] == engine["most_rows"].default
    assert command["queue"] == engine["most_waiting"].default


@pytest.mark.once
def test_a_container_is_stopped_after_the_server():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert int(services["t5gemma2"]["stop_grace_period"].removesuffix("s")) > GRACE


@pytest.mark.once
def test_vectors_are_those_of_the_preset(monkeypatch, tmp_path, capsys):
    """A preset of an embedder has its own pooling and prompts."""
    cls = keras_t5gemma2.T5Gemma2TextEmbedder
    options = {"pooling": "first", "prompts": {"query": "find: "}, "encoder_only": False}
    embedder = cls.from_preset("t5gemma2_tiny", **options)
    embedder.save_to_preset(tmp_path / "mine")
    found = []

    class Server:
        def __init__(self, app, *rest):
            self._app = app

        def run(self):
            body = {"input": "seven", "prompt": "query"}
            with TestClient(self._app, "http://localhost") as client:
                found.append(client.post("/v1/embeddings", json=body).json()["data"][0])

    monkeypatch.setattr(module, "server_of", Server)
    run("serve", tmp_path / "mine", "--quiet")
    want = embedder.encode_text("seven", prompt="query")[0]
    np.testing.assert_allclose(found[0]["embedding"], want, atol=1e-5)
    assert (
        np.abs(want - cls.from_preset("t5gemma2_tiny").encode_text("find: seven")[0]).max() > 0.01
    )
