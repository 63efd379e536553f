"""What the command `doctor` finds out."""

import json
import sys

import pytest
from command_line import printed

from t5gemma2_cli import diagnosis, main, running

pytestmark = pytest.mark.once

CPU = {
    "version": "1.0",
    "devices": [{"kind": "cpu", "name": "cpu"}],
    "operations_per_second": {"float32": 2e11, "bfloat16": 1e10},
}
GPU = {
    "version": "2.0",
    "devices": [{"kind": "gpu", "name": "H200", "bytes": 139 << 30}],
    "operations_per_second": {"float32": 4e13, "bfloat16": 6e14},
}


@pytest.fixture
def examined(monkeypatch):
    """`examine` on a machine whose backends are as a test says."""

    def examine(configured="jax", **backends):
        def probe(name, timeout):
            return backends.get(name, {"reason": "not installed"})

        monkeypatch.setattr(diagnosis, "probe", probe)
        return diagnosis.examine(running.BACKENDS, configured)

    return examine


def test_this_machine_in_json(monkeypatch, capsys):
    monkeypatch.setattr(diagnosis, "probe", lambda name, timeout: CPU)
    found = json.loads(printed(capsys, "doctor", "--json"))
    assert found["python"] == sys.version.split()[0] and found["works"]
    assert found["packages"]["keras"] and found["memory"]["total"] > 1 << 28
    assert found["backends"] == dict.fromkeys(running.BACKENDS, CPU)


def test_a_backend_that_does_not_work_is_a_status_and_an_advice(examined, monkeypatch, capsys):
    found = examined("torch", jax=CPU, torch={"reason": "ImportError: no libtorch"})
    assert not found["works"]
    text = diagnosis.as_text(found)
    assert "torch (Keras would take it): ImportError: no libtorch" in text
    assert "torch, which Keras would take, does not work (ImportError: no libtorch): set" in text
    assert "KERAS_BACKEND=jax" in text
    monkeypatch.setattr(diagnosis, "examine", lambda *_: found)
    assert main(["doctor"]) == 1


def test_an_accelerator_goes_first(examined):
    found = examined("tensorflow", tensorflow=CPU, torch=GPU)
    assert found["advice"][0] == (
        "Fastest here: torch on its gpu, in bfloat16: --backend torch, or set KERAS_BACKEND=torch"
    )
    assert "torch: 2.0; H200 139.0 GiB; matrix products, G operations/s: " in diagnosis.as_text(
        found
    )


def test_slow_products_in_bfloat16_are_said(examined):
    advice = examined("jax", jax=CPU)["advice"]
    assert "No accelerator is seen." in advice[0]
    assert any("long inputs are slower in it with jax" in line for line in advice)


def test_nothing_that_works(examined):
    assert examined("jax")["advice"] == ["No backend works: pip install 'keras-t5gemma2[jax]'"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("raise ValueError('damaged')", "ValueError: damaged"),
    ],
)
def test_a_probe_that_fails(text, reason, monkeypatch):
    monkeypatch.setattr(diagnosis, "_PROBE", text)
    assert diagnosis.probe("torch", 1 if "sleep" in text else 60) == {"reason": reason}
    assert diagnosis.probe("not_there", 1) == {"reason": "not installed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", running.BACKENDS)
def test_each_backend_answers(name):
    found = diagnosis.probe(name, 300)
    assert found["devices"] and set(found["operations_per_second"]) == {"float32", "bfloat16"}
    assert min(found["operations_per_second"].values()) > 1e6


def test_the_login_shows_no_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = diagnosis.hub_login()
    assert found["token"] is True and "secret" not in json.dumps(found)
    monkeypatch.setattr("huggingface_hub.whoami", lambda: {"name": "me"})
    assert diagnosis.hub_login(online=True)["name"] == "me"
