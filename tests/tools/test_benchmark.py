"""The benchmark: what it counts, how it ends what is too much, and what it writes."""

import argparse
import dataclasses
import importlib
import json
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from command_line import error_of, parsed
from repository import TOOLS, environment


def _tool(name):
    return importlib.import_module(f"t5gemma2_cli.benchmarks.{name}")


# Costs


@pytest.mark.once
def test_weights_are_those_of_the_published_model():
    sizes = _tool("sizes").Sizes()
    norms = 18 * (2 * 256 + 4 * 640) + 640
    assert 18 * sizes.weights_of_a_layer + norms == 100_326_016
    assert sizes.table == 167_772_160


@pytest.mark.once
def test_a_decode_step_reads_each_weight_and_all_keys_once():
    """Sizes of 1, so that every term can be counted by hand."""
    sizes = _tool("sizes")
    one = sizes.Sizes(1, 3, 1, 7, width=1, mlp=1, heads=2, key_heads=1, head=1, window=2)
    found = sizes.cost("decode", one, "bfloat16", batch=5, length=11)
    weights = 3 * (2 + 1 + 1 + 2 + 3) + 7
    assert found.moved == 2 * (weights + 5 * 11 * 3 * 2)
    assert found.operations == 2 * 5 * weights + 5 * 11 * 3 * 2 * 4


@pytest.mark.once
def test_sliding_layers_see_their_window_and_every_sixth_all():
    sizes = _tool("sizes")
    costs = [sizes.cost("encode", sizes.Sizes(6), "float32", 1, n) for n in (1000, 2000)]
    linear = 2 * 6 * sizes.Sizes().weights_of_a_layer * 1000
    scores = [4 * 4 * 256 * n * (5 * 512 + n) for n in (1000, 2000)]
    assert [cost.operations for cost in costs] == [linear + scores[0], 2 * linear + scores[1]]


@pytest.mark.once
def test_the_limit_is_the_slower_of_memory_and_arithmetic():
    machine = {"bytes_per_second": 10.0, "operations_per_second": {"float32": 100.0}}
    cost = _tool("sizes").Cost
    assert cost(moved=50, operations=100).seconds(machine, "float32") == 5.0
    assert cost(moved=50, operations=900).seconds(machine, "float32") == 9.0
    assert cost(moved=50, operations=900).seconds(machine, "bfloat16") is None


# Processes

_PROGRAM = """
import sys, time, json
case = json.loads(sys.argv[2])
if case == "fail":
    raise ValueError("no such thing")
if case == "memory":
    room = bytearray(1 << 29)
    room[::4096] = b"x" * len(room[::4096])
if case in ("memory", "time"):
    time.sleep(60)
print("noise")
print(json.dumps({"case": case}))
"""


@pytest.mark.once
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("fine", {"case": "fine"}),
        ("fail", {"reason": "ValueError: no such thing"}),
        ("time", {"reason": "takes more than 1 s"}),
        ("memory", {"reason": "needs more than 0.2 GiB"}),
    ],
)
def test_a_measurement_ends_with_what_it_printed_or_with_the_reason(tmp_path, case, expected):
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    processes = _tool("processes")
    seconds = 1 if case == "time" else 30
    limits = processes.Limits(seconds, resident_bytes=0.2 * (1 << 30))
    assert processes.measure_alone(script, case, limits=limits) == expected


@pytest.mark.once
def test_an_import_is_measured_beyond_what_it_builds_on(monkeypatch):
    works = _tool("works")
    case = works.Case("import", "ours", "torch")
    monkeypatch.setitem(works.IMPORTS, "ours", ("time.sleep(0.2)", "time.sleep(0.5)"))
    found = works.measure(dataclasses.asdict(case))
    assert 0.2 <= found["beyond"] < 0.5 and found["seconds"][0] >= 0.7
    monkeypatch.setitem(works.IMPORTS, "ours", ("import nothing_of_this_name", "pass"))
    with pytest.raises(RuntimeError, match="nothing_of_this_name"):
        works.measure(dataclasses.asdict(case))


# The report


def _result(implementation, backend, length, seconds, reason=None, work="decode"):
    runs = [] if reason else [{"seconds": seconds, "bytes": 1 << 29}]
    result = {
        **{"work": work, "implementation": implementation, "backend": backend},
        **{"dtype": "float32", "batch": 1, "length": length, "tokens": 1},
        **{"runs": runs, "reason": reason, "cost": {"moved": 2e9, "operations": 1.0}},
    }
    _tool("report").summarize(result, _MACHINE)
    return result


_MACHINE = {
    **{"bytes_per_second": 20e9, "operations_per_second": {"float32": 200e9}},
    **{"processor": "a processor", "cores": 2, "command": "t5gemma2 benchmark"},
    **{"works": {"decode": "one more token", "load": "to a model"}, "layers": 18},
}


@pytest.fixture
def found():
    results = [
        _result("ours", "jax", 512, [0.125, 0.12, 0.135]),
        _result("transformers", "torch", 512, [2.0, 2.2, 3.0]),
        _result("ours", "jax", 4096, [0.25]),
        _result("transformers", "torch", 4096, [], reason="needs more than 9.0 GiB"),
        _result("ours", "jax", 512, [1.5], work="load"),
    ]
    return {"machine": _MACHINE, "results": results}


@pytest.mark.once
def test_the_table_has_medians_spread_part_of_the_limit_memory_and_reasons(found, tmp_path):
    _tool("report").write(found, tmp_path)
    text = (tmp_path / "benchmark.md").read_text()
    assert "a processor, 2 cores: reads 20.0 GB/s, 200 G operations/s in float32" in text
    assert "| ours, jax | 125.0 ms ± 7.5 (0.80, 0.50 GiB) | 250.0 ms ± 0.0 (0.40" in text
    assert "| transformers | 2.20 s ± 0.50 (0.05, 0.50 GiB) | needs more than 9.0 GiB |" in text
    assert "| ours, jax, float32 | 1.50 s ± 0.00" in text


@pytest.mark.once
def test_the_picture_has_a_curve_for_each(found, tmp_path, monkeypatch):
    report = _tool("report")
    report.write(found, tmp_path)
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    axes = report._draw(found).axes
    titles = ["decode, batch 1: seconds", "decode, batch 1: GiB beyond weights", "load: seconds"]
    assert [axis.get_title() for axis in axes] == titles
    drawn = [*axes[0].containers, *axes[0].lines]
    curves = {curve.get_label(): curve for curve in drawn}
    assert {"ours, jax", "transformers", "limit"} <= set(curves)
    points = {
        name: list(curves[name].lines[0].get_xdata()) for name in ("ours, jax", "transformers")
    }
    assert points == {"ours, jax": [512, 4096], "transformers": [512]}
    assert list(curves["limit"].get_ydata()) == [0.1, 0.1]


# What is asked of whom


@pytest.mark.once
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ("decode", [("ours", "jax"), ("ours", "torch"), ("ours compiled", "torch")]),
        ("train", [("ours", "jax"), ("ours", "torch")]),
    ],
)
def test_compiled_steps_are_asked_of_torch_where_there_are_steps(work, expected):
    arguments = argparse.Namespace(
        implementations=["ours", "ours compiled", "transformers"], backends=["jax", "torch"]
    )
    found = list(_tool("main")._who(work, arguments))
    assert found == [*expected, ("transformers", "torch")]


@pytest.mark.once
def test_rows_of_a_data_set_are_of_many_lengths():
    contenders = _tool("contenders")
    case = contenders.Case("rows", "ours", "jax", batch=contenders.ROWS, length=512)
    mask = case.mask()
    lengths = mask.sum(axis=1)
    assert mask.shape == (32, 512) and len(set(lengths)) > 16
    assert lengths.min() >= 16 and lengths.max() <= 512
    assert all(row[:length].all() for row, length in zip(mask, lengths, strict=True))


# The command


@pytest.mark.once
def test_choices_are_those_of_the_benchmarks():
    command = importlib.import_module("t5gemma2_cli.benchmark")
    assert tuple(_tool("works").WORKS) == command.WORKS
    assert tuple(_tool("contenders").CONTENDERS) == command.IMPLEMENTATIONS


@pytest.mark.once
def test_the_command_asks_for_what_its_options_say(monkeypatch, tmp_path, capsys):
    taken = []
    monkeypatch.setattr(_tool("main"), "run", lambda request: taken.append(request) or {"a": 1})
    options = ("--works", "decode", "--lengths", "40", "--lengths", "50", "--long")
    options += ("--implementations", "ours compiled")
    assert parsed(capsys, "benchmark", *options, "--output", tmp_path, "--json") == [{"a": 1}]
    (request,) = taken
    assert (request.works, request.lengths, request.long) == (("decode",), (40, 50), True)
    assert request.command == (
        "t5gemma2 benchmark --works decode --implementations 'ours compiled' --lengths 40 "
        f"--lengths 50 --long --output {tmp_path}"
    )


@pytest.mark.once
def test_nothing_to_measure_is_an_error_and_nothing_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_tool("main"), "_machine", lambda request: pytest.fail("measured"))
    options = ("--works", "train", "--implementations", "ours compiled", "--output", tmp_path)
    error = error_of(capsys, "benchmark", *options)
    assert "must do one of the works on one of the backends" in error
    assert "Received: works=('train',), implementations=('ours compiled',)" in error


@pytest.mark.once
def test_a_product_that_takes_long_is_measured_of_a_part(monkeypatch):
    sizes, seen = _tool("sizes"), []

    def seconds(run):
        seen.append(len(run()))
        return seen[-1] / 1000

    monkeypatch.setattr(sizes, "_seconds", seconds)
    found = sizes._operations_per_second(np.ones((2048, 2048), "float32"), seconds=5.0)
    assert seen == [256, 512, 1024] and found == 2 * 1024**3 / 1.024


@pytest.mark.once
def test_several_values_of_the_tool_are_options_one_by_one():
    tool = runpy.run_path(str(TOOLS / "benchmark" / "__main__.py"))
    given = ["--lengths", "512", "4096", "--long", "--output", "a", "--works", "decode"]
    expected = ["--lengths", "512", "--lengths", "4096", *given[3:]]
    assert tool["one_by_one"](given) == expected


# The whole


@pytest.mark.slow
@pytest.mark.parametrize("work", ["decode", "rows", "loop"])
def test_a_run_of_tiny_models_writes_what_it_measured(tmp_path, work):
    backend = keras.config.backend()
    options = {
        "--works": [work],
        "--implementations": ["ours"],
        "--backends": [backend],
        "--lengths": ["40"],
        "--batches": ["2"],
        "--layers": ["1"],
        "--vocabulary": ["300"],
        "--repeats": ["1"],
        "--samples": ["2"],
        "--machine-mebibytes": ["8"],
        "--machine-matrix": ["64"],
        "--output": [str(tmp_path)],
    }
    arguments = [part for name, values in options.items() for part in (name, *values)]
    subprocess.run(
        [sys.executable, str(TOOLS / "benchmark"), *arguments], env=environment(), check=True
    )
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert found["machine"]["bytes_per_second"] > 1e6
    (result,) = found["results"]
    assert result["reason"] is None
    rows = 2 if work == "decode" else 32
    assert (result["backend"], result["batch"], result["length"]) == (backend, rows, 40)
    assert len(result["runs"][0]["seconds"]) == 2
    assert bool(result["limit"]) == (work == "decode")
    text = (tmp_path / "benchmark.md").read_text()
    assert ("new tokens a second" in text) == (work != "decode")
    assert (tmp_path / "benchmark.md").exists() and (tmp_path / "benchmark.png").exists()
