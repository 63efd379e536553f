"""How each work is timed, in a process of its own."""

import contextlib
import io
import pathlib
import subprocess
import sys
import time

from t5gemma2_cli.benchmarks.contenders import (
    CONTENDERS,
    IMPORTS,
    MOST_NEW,
    NEW,
    PROMPT,
    ROWS,
    Case,
)
from t5gemma2_cli.benchmarks.processes import peak, start_of_peak
from t5gemma2_cli.benchmarks.sizes import measure_machine

# What is measured, by name.
WORKS = {
    "encode": "the encoder alone",
    "prefill": f"encode, read a decoder prompt of {PROMPT} tokens, give the first new token",
    "decode": "one more token: the difference of two numbers of new tokens",
    "rows": f"{ROWS} rows of up to so many tokens, {NEW} new tokens each, in one call",
    "loop": "the same rows, a call for each",
    "train": "a training step with LoRA of rank 16 on all projections",
    "text": "a forward pass on text alone of the model that also takes images",
    "load": "from a directory with bfloat16 weights, images included, to a model",
    "first": "the first `generate` of 16 tokens less the second: tracing and compilation",
    "import": "the import that a program begins with",
}
_SHORTEST_DIFFERENCE = 1.5  # seconds


def measure(fields):
    """What one process finds out.

    Args:
        fields: dict of the fields of a `Case`; or of the arguments of `measure_machine`, with
            "machine" as its `work`.

    Returns:
        A dict of `seconds`, a list of samples, of `bytes`, where they were measured the peak of
        memory beyond that of the weights, and of what else a work has; or of `reason`.
    """
    # What libraries print must not mix with the one line that is read.
    with contextlib.redirect_stdout(io.StringIO()):
        if fields["work"] == "machine":
            return measure_machine(fields["mebibytes"], fields["matrix"])
        case = Case(**fields)
        try:
            return _MEASURES[case.work](case)
        except ModuleNotFoundError as error:
            return {"reason": f"not installed: {error.name}"}


def _repeat(case):
    """The same call again and again."""
    contender, before = _built(case)
    run = getattr(contender, case.work)()
    run()
    return _sampled(lambda: _time(run), case.samples, before)


def _decode(case):
    """Two numbers of tokens, so far apart that their difference is well above the noise."""
    contender, before = _built(case)
    few, some = 2, 6

    def difference(more):
        started = _time(lambda: contender.generate(1, few))
        return (_time(lambda: contender.generate(1, more)) - started) / (more - few)

    for tokens in (few, some, MOST_NEW):
        contender.generate(1, tokens)
    estimate = max(difference(some), 1e-6)
    more = int(min(MOST_NEW, max(some, few + _SHORTEST_DIFFERENCE / estimate)))
    return _sampled(lambda: difference(more), case.samples, before)


def _first(case):
    contender, _ = _built(case)
    first, second = (_time(lambda: contender.generate(1, 16)) for _ in range(2))
    return {"seconds": [first - second]}


def _load(case):
    path = pathlib.Path(case.checkpoint, "model.safetensors")
    # The file comes from the page cache, here and for everybody.
    reading = min(_time(lambda: _read(path)) for _ in range(2))
    exec(IMPORTS[case.implementation][0], {})
    contender = CONTENDERS[case.implementation](case)
    before = start_of_peak()
    seconds = _time(contender.load)
    found = {"seconds": [seconds], "bytes": peak() - before, "limit": reading}
    found["first token"] = seconds + _time(lambda: contender.generate(1, 1))
    return found


def _read(path):
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _import(case):
    """In a process of its own: first what the implementation builds on, then itself."""
    whole, part = IMPORTS[case.implementation]
    clock = "clock = time.perf_counter; start = clock()"
    code = f"import time; {clock}; {part}; built = clock(); {whole}; end = clock()"
    code += "; print(end - start, end - built)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1])
    seconds, beyond = map(float, ran.stdout.split()[-2:])
    return {"seconds": [seconds], "beyond": beyond}


_MEASURES = {
    **dict.fromkeys(("encode", "prefill", "rows", "loop", "train", "text"), _repeat),
    **{"decode": _decode, "first": _first, "load": _load, "import": _import},
}


def _built(case):
    """The contender, and the memory that is resident with its weights alone."""
    contender = CONTENDERS[case.implementation](case)
    contender.build()
    return contender, start_of_peak()


def _sampled(timed, samples, before):
    start_of_peak()
    seconds = [timed() for _ in range(samples)]
    return {"seconds": seconds, "bytes": peak() - before}


def _time(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
