"""The same work on this package, on transformers and on keras-hub's T5Gemma 2: time and memory.

    python tools/benchmark --output benchmark
    python tools/benchmark --works decode --lengths 512 4096 --backends jax --dtypes float32
    python tools/benchmark --long

The model has the published 270M shape and random weights. Each measurement has a process of its
own; implementations take turns, `--repeats` times, and what is quoted is the median of all samples,
with half their range. What cannot run is listed with the reason. The machine's memory bandwidth
and matrix rate are measured as well: they say how fast a work could be at best.

Writes `benchmark.json`, `benchmark.md` and, where matplotlib is installed, `benchmark.png` into the
directory `--output`.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import sys
import tempfile

import processes
import report
from contenders import CONTENDERS, NEW, PROMPT, ROWS, Case, write_checkpoint
from sizes import Sizes, cost
from works import WORKS, measure

_BACKENDS = ("jax", "tensorflow", "torch")
_LONG = 131_072


def main():
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    if arguments.write_checkpoint:
        write_checkpoint(arguments.write_checkpoint, _sizes(arguments))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        groups = _groups(arguments, _checkpoint(arguments, scratch))
        found = {"machine": _machine(arguments), "results": []}
        try:
            for group in groups:
                found["results"] += _take_turns(group, arguments, found)
                path = arguments.output / "benchmark.json"
                path.write_text(json.dumps(found, indent=1))
        finally:  # what there is when a long run is interrupted
            if found["results"]:
                report.write(found, arguments.output)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--implementations", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument(
        "--backends", nargs="+", choices=_BACKENDS, default=[*_BACKENDS], help="of the Keras models"
    )
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 4096, 16_384])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument(
        "--long", action="store_true", help=f"encode {_LONG} tokens and decode, ours alone"
    )
    parser.add_argument("--train-length", type=int, default=2048, help="encoder tokens")
    parser.add_argument("--train-tokens", type=int, default=512, help="decoder tokens")
    parser.add_argument("--train-batch", type=int, default=2)
    parser.add_argument(
        "--layers", type=int, default=18, help="of each stack; fewer for a quick look"
    )
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--repeats", type=int, default=2, help="processes of each measurement")
    parser.add_argument("--samples", type=int, default=3, help="of each process")
    parser.add_argument("--seconds", type=float, default=600, help="after which one is ended")
    parser.add_argument("--gibibytes", type=float, default=None, help="of memory, the same")
    parser.add_argument("--machine-mebibytes", type=int, default=1024, help=argparse.SUPPRESS)
    parser.add_argument("--machine-matrix", type=int, default=4096, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmark"))
    parser.add_argument("--scratch", help="where 1.6 GB of weights are kept for `load`")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--write-checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.command = " ".join(["python tools/benchmark", *sys.argv[1:]])
    return arguments


# What is measured -----------------------------------------------------------------------------


def _groups(arguments, checkpoint):
    """Lists of cases that differ in who does the work, those of few tokens first."""
    sizes = dataclasses.asdict(_sizes(arguments))
    fields = {"sizes": sizes, "samples": arguments.samples, "checkpoint": checkpoint}
    for work, dtype in itertools.product(arguments.works, arguments.dtypes):
        for batch, length, tokens in _shapes(work, arguments):
            if work == "import" and dtype != arguments.dtypes[0]:
                continue
            yield [
                Case(work, *who, dtype, batch, length, tokens, **fields)
                for who in _who(work, arguments)
                if length < _LONG or who[0].startswith("ours")
            ]


def _shapes(work, arguments):
    """Rows, and tokens of each for the encoder and the decoder."""
    if work in report.BY_LENGTH:
        lengths = sorted(arguments.lengths)
        tokens = PROMPT if work == "prefill" else 1
        shapes = [(b, n, tokens) for b, n in itertools.product(sorted(arguments.batches), lengths)]
        return shapes + [(1, _LONG, tokens)] * (arguments.long and work != "prefill")
    if work == "train":
        return [(arguments.train_batch, arguments.train_length, arguments.train_tokens)]
    if work in ("rows", "loop"):
        return [(ROWS, min(arguments.lengths), NEW)]
    return [(1, min(arguments.lengths), 1)]


def _who(work, arguments):
    """Pairs of an implementation and its backend."""
    for implementation in arguments.implementations:
        backends = ["torch"] if implementation == "transformers" else arguments.backends
        if implementation == "ours compiled":
            has_steps = work in ("decode", "first")
            backends = [name for name in backends if name == "torch" and has_steps]
        yield from ((implementation, backend) for backend in backends)


def _sizes(arguments):
    layers = arguments.layers
    return Sizes(layers, layers, min(27, 2 * layers), arguments.vocabulary)


def _checkpoint(arguments, scratch):
    if "load" not in arguments.works:
        return None
    print("writing random weights", flush=True)
    options = ["--layers", str(arguments.layers), "--vocabulary", str(arguments.vocabulary)]
    processes.run([__file__, "--write-checkpoint", scratch, *options])
    return scratch


def _machine(arguments):
    sizes = {"mebibytes": arguments.machine_mebibytes, "matrix": arguments.machine_matrix}
    limits = processes.measure_alone(__file__, {"work": "machine", **sizes})
    return {
        **limits,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": arguments.command,
        "works": {work: WORKS[work] for work in arguments.works},
        "layers": arguments.layers,
    }


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# How ------------------------------------------------------------------------------------------


def _take_turns(group, arguments, found):
    """The results of a group of cases, each case in a process of its own for each repeat."""
    results = [{**dataclasses.asdict(case), "runs": []} for case in group]
    for result in results:
        result["reason"] = _known_reason(result, found["results"])
    for _, result in itertools.product(range(arguments.repeats), results):
        if result["reason"] is None:
            run = _run(result, arguments)
            result["reason"] = run.get("reason")
            result["runs"].append(run)
            print(report.line(result), flush=True)
    for case, result in zip(group, results, strict=True):
        result["cost"] = dataclasses.asdict(_cost(case)) if _cost(case) else None
        report.summarize(result, found["machine"])
    return results


def _run(result, arguments):
    fields = {field.name: result[field.name] for field in dataclasses.fields(Case)}
    environment = {"KERAS_BACKEND": result["backend"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    limits = processes.Limits(arguments.seconds, _most_bytes(arguments))
    return processes.measure_alone(__file__, fields, environment, limits)


def _most_bytes(arguments):
    """By default most of what is free, so that nothing else on the machine is pushed out."""
    if arguments.gibibytes is not None:
        return arguments.gibibytes * (1 << 30)
    return 0.9 * processes.available_bytes()


def _known_reason(result, earlier):
    """Why there is no need to try: it was too much already with fewer rows or tokens."""
    same = ("work", "implementation", "backend", "dtype")
    for other in earlier:
        is_smaller = other["batch"] <= result["batch"] and other["length"] <= result["length"]
        too_much = (other["reason"] or "").startswith(processes.TOO_MUCH)
        if is_smaller and too_much and all(other[key] == result[key] for key in same):
            return other["reason"].partition(" (")[0] + (
                f" (so already {other['batch']} x {other['length']:,})"
            )
    return None


def _cost(case):
    return cost(case.work, case.shape(), case.dtype, case.batch, case.length, case.tokens)


if __name__ == "__main__":
    main()
