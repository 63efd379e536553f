"""The table of what models take of a device's memory."""

import dataclasses
import json

import click
import pytest
from command_line import error_of, printed

from keras_t5gemma2 import kernels_for, presets
from keras_t5gemma2.kernels.runtime.platforms import PLATFORMS
from keras_t5gemma2.planning import machines
from keras_t5gemma2.planning.weights import published_models
from keras_t5gemma2.planning.work import MODES, Work
from t5gemma2_cli.plan import DEVICES, plan
from t5gemma2_cli.plan import MODES as CHOICES

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_the_table_has_each_published_model_in_each_mode(capsys):
    lines = printed(capsys, "plan").splitlines()
    assert [line.split(" | ")[:2] for line in lines[4:-2]] == [
        [f"| {name}", mode] for name in published_models() for mode in ("inference", "fit", "lora")
    ]


def test_json(capsys):
    options = ("t5gemma2_4b_4b", "--mode", "inference", "--memory", "12", "--json")
    (row,) = json.loads(printed(capsys, "plan", *options))
    assert row["weights"] == 2 * presets["t5gemma2_4b_4b"]["metadata"]["params"]
    assert (row["fits"], row["largest_batch"]) == (False, 0)


def test_modes_and_meshes(capsys):
    options = ("--mode", "lora", "--mode", "fit", "--text-only", "--mesh", "2", "1", "--rank", "4")
    text = printed(capsys, "plan", "t5gemma2_tiny", *options)
    assert "each of 2 x 1 devices" in text
    assert [line[:24] for line in text.splitlines()[4:-2]] == [
        "| t5gemma2_tiny | lora |",
        "| t5gemma2_tiny | fit | ",
    ]


def test_the_table_of_machines(capsys, monkeypatch):
    monkeypatch.setattr(machines, "best", lambda *_: machines.Choice(0, None))
    lines = printed(capsys, "plan", "t5gemma2_270m_270m", "--machines").splitlines()
    assert len(lines) == 2 + len(machines.TASKS) * len(machines.MACHINES)
    assert lines[-1].startswith("| t5gemma2_270m_270m | full training, 2K | H100 |")


@pytest.mark.parametrize("device", [None, "gpu"])
def test_a_line_names_the_kernels(capsys, device):
    asked = ("--device", device) if device else ()
    options = ("t5gemma2_4b_4b", "--mode", "lora", "--encoder-length", "4096", *asked)
    line = printed(capsys, "plan", *options).splitlines()[-1]
    found = kernels_for(device, 4096, "bfloat16", 256, 1024)
    found["vision"] = kernels_for(device, 64 * 64, "bfloat16", 72)["vision"]
    assert line.startswith("Attention of t5gemma2_4b_4b on " + (device or "this device"))
    assert line.endswith(", ".join(f"{place}: {x.kernel}" for place, x in found.items()))


def test_a_model_of_text_alone_has_no_kernel_of_images(capsys):
    for asked in (("t5gemma_s_s_ul2",), ("t5gemma2_270m_270m", "--text-only")):
        line = printed(capsys, "plan", *asked, "--mode", "lora", "--device", "cpu").splitlines()[-1]
        assert "encoder:" in line and "vision" not in line


def test_what_is_wrong_is_said(capsys):
    assert "`rank` must be at least 1" in error_of(capsys, "plan", "t5gemma2_tiny", "--rank", "0")


def test_the_options_are_those_of_the_work():
    defaults = {field.name: field.default for field in dataclasses.fields(Work)}
    context = click.Context(plan)
    options = {option.name: option.get_default(context) for option in plan.params}
    assert {name: options[name] for name in defaults if name != "mode"} == {
        name: value for name, value in defaults.items() if name != "mode"
    }
    assert CHOICES == MODES
    assert set(DEVICES) == {*PLATFORMS, "gpu"}
