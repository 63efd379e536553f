"""The check of a device: its tables and picture, its time limit, and a rehearsal on this CPU."""

import json
import os
import subprocess
import sys
import time
from xml.etree import ElementTree

import keras
import pytest
from device_check import report
from repository import ROOT, environment

BACKEND = keras.config.backend()
MACHINE = {"bytes_per_second": 4e12, "operations_per_second": 8e14, "device": "a GPU"}
FOUND = [
    {"part": "machine", "by": "torch", **MACHINE},
    {"part": "machine", "by": "jax", **MACHINE, "bytes_per_second": 2e12},
    {
        **{"part": "speed", "by": "torch", "model": "270m", "what": "step, batch 1"},
        **{"seconds": 2e-4, "tokens_per_second": 5000, "bytes": 4e8, "operations": 1e9},
        "peak": 3 << 30,
    },
    {
        **{"part": "speed", "by": "transformers", "model": "270m", "what": "step, batch 1"},
        **{"seconds": 1e-3, "tokens_per_second": 1000, "bytes": 4e8, "operations": 1e9},
        "peak": 1 << 30,
    },
    {"part": "speed", "by": "jax", "model": "270m", "what": "step, batch 1", "note": "no <memory>"},
    {
        "part": "kernels",
        "by": "torch",
        "what": "flex",
        "direction": "forward",
        "error": 1,
        "ok": False,
    },
    {"part": "kernels", "by": "torch", "what": "few", "skipped": "it is for CPUs only"},
    {"part": "parity", "by": "jax", "what": "greedy text", "same_tokens": 0.5},
    {"part": "process", "by": "speed jax 1b", "note": "cut short by the limit"},
]


@pytest.mark.once
def test_the_tables_say_what_was_found(tmp_path):
    report.write(FOUND, ["today"], tmp_path / "new")
    text = (tmp_path / "new" / "device.md").read_text()
    assert "torch: a GPU, copies 4,000 GB/s, multiplies 800.0 TFLOP/s in bfloat16." in text
    # 4e8 bytes at the better rate of 4e12 a second are half of 2e-4 seconds.
    assert "| 270m | step, batch 1 | torch | 0.20 | 5,000 | 50% | 5.00x | 3.00 |" in text
    assert "| 270m | step, batch 1 | transformers | 1.00 | 1,000 | 10% | 1.00x | 1.00 |" in text
    assert "| 270m | step, batch 1 | jax | no <memory> |" in text
    assert "| torch | flex | forward | 1 | NO |" in text
    assert "| torch | few |  |  | not asked: it is for CPUs only |" in text
    assert "| jax | greedy text |  | 0.5 the same |  |" in text
    assert "- speed jax 1b: cut short by the limit" in text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["device.md", "device.svg"]


@pytest.mark.once
def test_what_is_wrong_is_a_failure():
    assert [record["what"] for record in report.failures(FOUND)] == ["flex"]


@pytest.mark.once
def test_the_picture_has_a_bar_for_each_measurement():
    picture = ElementTree.fromstring(report.picture(FOUND))
    bars = [x for x in picture if x.tag.endswith("rect")][1:]
    assert [float(bar.get("width")) for bar in bars] == [400.0, 80.0]
    texts = [x.text for x in picture if x.tag.endswith("text")]
    assert "5,000 tokens/s" in texts and "transformers" in texts
    assert "rect" in report.picture([])  # of nothing it is a picture, too


@pytest.mark.once
def test_nothing_found_yet_is_a_table_too():
    assert report.markdown([], ["today"]).splitlines()[2] == "today"


def run(directory, *options):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_device.py"), "--tiny", *options],
        env=environment(**_no_tensorflow(directory)),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    return done, time.monotonic() - start


def _no_tensorflow(directory):
    """A machine without it: whoever imports it fails."""
    (directory / "absent" / "tensorflow").mkdir(parents=True)
    file = directory / "absent" / "tensorflow" / "__init__.py"
    file.write_text("raise ImportError('there is none')")
    paths = [str(directory / "absent"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.slow
@pytest.mark.once
def test_it_ends_at_its_limit_and_says_so(tmp_path):
    """Before anything is imported, let alone measured."""
    options = ("--minutes", "0.15", "--out", "tables", "--backends", "torch")
    done, seconds = run(tmp_path, *options)
    assert seconds < 9 + 8  # and the start of Python, on a busy machine
    assert done.returncode == 1, "nothing was found"
    text = (tmp_path / "tables" / "device.md").read_text()
    assert "- checks torch: cut short by the limit" in text
    assert (tmp_path / "tables" / "device.svg").exists()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="it needs none")
def test_a_rehearsal_on_this_machine(tmp_path):
    """All parts at tiny shapes, without TensorFlow."""
    done, _ = run(tmp_path, "--minutes", "9", "--out", "tables", "--backends", BACKEND)
    text = (tmp_path / "tables" / "device.md").read_text()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + text
    for line in (
        f"| tiny | step, batch 1, 64 tokens | {BACKEND} |",
        f"| tiny | LoRA, batch 2, 64 tokens | {BACKEND} |",
        "| tiny | encode, batch 1, 96 tokens | transformers |",
        f"| {BACKEND} | logits, float32 |",
        f"| {BACKEND} | greedy text, float32 |  | 1 the same | yes |",
        f"| {BACKEND} | blocked, prefill, bfloat16 | gradient |",
    ):
        assert line in text, line
    assert "NO |" not in text


@pytest.mark.once
def test_records_are_lines_of_json(monkeypatch, capsys):
    import check_device

    monkeypatch.setitem(check_device._PARTS, "checks", lambda _: iter(FOUND[:2]))
    assert check_device.main(["--part", "checks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line.removeprefix("FOUND ")) for line in lines] == FOUND[:2]
