"""The same work on this package, on transformers and on keras-hub's T5Gemma 2: time and memory.

The model has the published 270M shape and random weights. Each measurement has a process of its
own; implementations take turns, and what is quoted is the median of all samples, with half their
range. What cannot run is listed with the reason. The machine's memory bandwidth and matrix rate
are measured as well: they say how fast a work could be at best.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import platform
import sys
import tempfile

from t5gemma2_cli.benchmarks import processes, report
from t5gemma2_cli.benchmarks.contenders import NEW, PROMPT, ROWS, Case, write_checkpoint
from t5gemma2_cli.benchmarks.sizes import Sizes, cost
from t5gemma2_cli.benchmarks.works import WORKS, measure

_LONG = 131_072


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `benchmark`, as the options of `t5gemma2 benchmark` have it."""

    works: tuple
    implementations: tuple
    backends: tuple
    dtypes: tuple
    lengths: tuple
    batches: tuple
    long: bool
    train_length: int
    train_tokens: int
    train_batch: int
    layers: int
    vocabulary: int
    repeats: int
    samples: int
    seconds: float
    gibibytes: float | None
    machine_mebibytes: int
    machine_matrix: int
    output: pathlib.Path
    scratch: str | None
    command: str


def run(request):
    """Measures, and writes `benchmark.json`, `benchmark.md` and, maybe, `benchmark.png`.

    Args:
        request: `Request`. The files go to its `output`.

    Returns:
        What is in `benchmark.json`.

    Raises:
        ValueError: no implementation does any of the works on one of the backends.
    """
    if not any(True for work in request.works for _ in _who(work, request)):
        raise ValueError(
            'An implementation must do one of the works on one of the backends: "ours compiled" '
            f"is of decode and first, on torch. Received: works={request.works}, "
            f"implementations={request.implementations}, backends={request.backends}"
        )
    request.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.scratch) as scratch:
        groups = _groups(request, _checkpoint(request, scratch))
        found = {"machine": _machine(request), "results": []}
        try:
            for group in groups:
                found["results"] += _take_turns(group, request, found)
                path = request.output / "benchmark.json"
                path.write_text(json.dumps(found, indent=1))
        finally:  # what there is when a long run is interrupted
            if found["results"]:
                report.write(found, request.output)
    return found


# What is measured -----------------------------------------------------------------------------


def _groups(request, checkpoint):
    """Lists of cases that differ in who does the work, those of few tokens first."""
    sizes = dataclasses.asdict(_sizes(request))
    fields = {"sizes": sizes, "samples": request.samples, "checkpoint": checkpoint}
    for work, dtype in itertools.product(request.works, request.dtypes):
        for batch, length, tokens in _shapes(work, request):
            if work == "import" and dtype != request.dtypes[0]:
                continue
            yield [
                Case(work, *who, dtype, batch, length, tokens, **fields)
                for who in _who(work, request)
                if length < _LONG or who[0].startswith("ours")
            ]


def _shapes(work, request):
    """Rows, and tokens of each for the encoder and the decoder."""
    if work in report.BY_LENGTH:
        lengths = sorted(request.lengths)
        tokens = PROMPT if work == "prefill" else 1
        shapes = [(b, n, tokens) for b, n in itertools.product(sorted(request.batches), lengths)]
        return shapes + [(1, _LONG, tokens)] * (request.long and work != "prefill")
    if work == "train":
        return [(request.train_batch, request.train_length, request.train_tokens)]
    if work in ("rows", "loop"):
        return [(ROWS, min(request.lengths), NEW)]
    return [(1, min(request.lengths), 1)]


def _who(work, request):
    """Pairs of an implementation and its backend."""
    for implementation in request.implementations:
        backends = ["torch"] if implementation == "transformers" else request.backends
        if implementation == "ours compiled":
            has_steps = work in ("decode", "first")
            backends = [name for name in backends if name == "torch" and has_steps]
        yield from ((implementation, backend) for backend in backends)


def _sizes(request):
    layers = request.layers
    return Sizes(layers, layers, min(27, 2 * layers), request.vocabulary)


def _checkpoint(request, scratch):
    if "load" not in request.works:
        return None
    print("writing random weights", flush=True)
    sizes = json.dumps(dataclasses.asdict(_sizes(request)))
    processes.run([__file__, "--write-checkpoint", scratch, sizes])
    return scratch


def _machine(request):
    sizes = {"mebibytes": request.machine_mebibytes, "matrix": request.machine_matrix}
    limits = processes.measure_alone(__file__, {"work": "machine", **sizes})
    return {
        **limits,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": request.command,
        "works": {work: WORKS[work] for work in request.works},
        "layers": request.layers,
    }


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# How ------------------------------------------------------------------------------------------


def _take_turns(group, request, found):
    """The results of a group of cases, each case in a process of its own for each repeat."""
    results = [{**dataclasses.asdict(case), "runs": []} for case in group]
    for result in results:
        result["reason"] = _known_reason(result, found["results"])
    for _, result in itertools.product(range(request.repeats), results):
        if result["reason"] is None:
            run = _run(result, request)
            result["reason"] = run.get("reason")
            result["runs"].append(run)
            print(report.line(result), flush=True)
    for case, result in zip(group, results, strict=True):
        result["cost"] = dataclasses.asdict(_cost(case)) if _cost(case) else None
        report.summarize(result, found["machine"])
    return results


def _run(result, request):
    fields = {field.name: result[field.name] for field in dataclasses.fields(Case)}
    environment = {"KERAS_BACKEND": result["backend"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    limits = processes.Limits(request.seconds, _most_bytes(request))
    return processes.measure_alone(__file__, fields, environment, limits)


def _most_bytes(request):
    """By default most of what is free, so that nothing else on the machine is pushed out."""
    if request.gibibytes is not None:
        return request.gibibytes * (1 << 30)
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


def _in_a_process_of_its_own(task, *arguments):
    if task == "--measure":
        print(json.dumps(measure(json.loads(arguments[0]))))
    else:
        directory, sizes = arguments
        write_checkpoint(directory, Sizes(**json.loads(sizes)))


if __name__ == "__main__":
    _in_a_process_of_its_own(*sys.argv[1:])
