"""Checks this package on the device at hand, and measures it there, in a few minutes.

    python tools/check_device.py --minutes 8 --out docs/benchmarks

Parity of logits and greedy text with transformers, every kernel of attention against the
reference, and speed and memory at published shapes with random weights, on torch and JAX, beside
transformers. `device.md` and `device.svg` are written anew after each finding, so that a run that
is cut short leaves what it had. Nothing is downloaded. It needs torch, JAX, transformers, Keras and
keras-hub; no TensorFlow. Without a GPU it runs on the CPU: with `--tiny`, in minutes.

The exit status is 1 where something is not as it should be, or no part gave anything.
"""

import argparse
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from device_check import report  # noqa: E402  found by the line before

# Of the whole time, what the checks may take before speed is measured.
_SHARE_OF_CHECKS = 0.4
_SECONDS_TO_END = 5  # kept back, for processes to end and the files to be written
_MARK = "FOUND "


def main(arguments=None):
    options = _parser().parse_args(arguments)
    if options.part:
        return _in_this_process(options)
    start = time.monotonic()
    end = start + 60 * options.minutes - _SECONDS_TO_END
    found = _Findings(options, start)
    checks_end = min(end, start + 60 * options.minutes * _SHARE_OF_CHECKS)
    _run([("checks", backend, None) for backend in options.backends], checks_end, options, found)
    jobs = [
        (part, backend, model)
        for model in (["tiny"] if options.tiny else options.models)
        for part, backend in (*(("speed", b) for b in options.backends), ("theirs", "torch"))
    ]
    for number, job in enumerate(jobs):
        left = end - time.monotonic()
        _run([job], time.monotonic() + left / (len(jobs) - number), options, found)
    found.write()
    failures = report.failures(found.records)
    for record in failures:
        print(f"NOT AS IT SHOULD BE: {record}")
    print(f"{options.out}/device.md after {time.monotonic() - start:.0f} s")
    return 1 if failures or not any(r["part"] != "process" for r in found.records) else 0


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="it ends within (default: 8)")
    parser.add_argument("--out", default="docs/benchmarks", help="the directory of the files")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to rehearse on a CPU")
    parser.add_argument("--backends", nargs="+", default=["torch", "jax"])
    parser.add_argument("--models", nargs="+", default=["270m", "1b"])
    parser.add_argument("--part", choices=list(_PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser


class _Findings:
    """The records so far, and their files, which are written anew with each."""

    def __init__(self, options, start):
        self._options, self._start, self.records = options, start, []

    def add(self, record):
        self.records.append(record)
        self.write()

    def write(self):
        seconds = time.monotonic() - self._start
        command = f"python tools/check_device.py --minutes {self._options.minutes:g}"
        command += " --tiny" if self._options.tiny else ""
        head = [f"{time.strftime('%Y-%m-%d')}, `{command}`, after {seconds:.0f} s."]
        report.write(self.records, head, self._options.out)


def _run(jobs, end, options, found):
    """Runs jobs at once, each in a process of its own, and ends those that are not done in time."""
    lines = queue.Queue()
    running = [_Process(job, options, lines) for job in jobs]
    waiting = len(running)
    while waiting and (left := end - time.monotonic()) > 0:
        try:
            process, line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            waiting -= 1
            if (note := process.failure()) is not None:
                found.add({"part": "process", "by": process.name, "ok": False, "note": note})
        elif line.startswith(_MARK):
            found.add({"by": process.backend, **json.loads(line.removeprefix(_MARK))})
    for process in running:
        if process.end():
            found.add({"part": "process", "by": process.name, "note": "cut short by the limit"})


class _Process:
    def __init__(self, job, options, lines):
        part, self.backend, model = job
        self.name = " ".join(filter(None, (part, self.backend, model)))
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--part", part]
        command += ["--model", model] if model else []
        command += ["--tiny"] if options.tiny else []
        paths = [str(ROOT), os.environ.get("PYTHONPATH")]
        environment = {
            # What is measured of memory is what is used, and two processes have room.
            **{"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "HF_HUB_OFFLINE": "1"},
            **{**os.environ, "KERAS_BACKEND": self.backend, "PYTHONUNBUFFERED": "1"},
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        if part == "checks":  # or float32 would be rounded to TF32 on a GPU
            environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._errors = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines):
        for line in self._process.stdout:
            lines.put((self, line))
        self._process.wait()
        lines.put((self, None))

    def _read_errors(self):
        for line in self._process.stderr:
            self._errors = [*self._errors, line.strip()][-20:]

    def failure(self):
        """The last line of a process that failed, or `None`."""
        if self._process.returncode == 0:
            return None
        self._reader.join(timeout=1)
        last = next((line for line in reversed(self._errors) if line), "")
        return f"ended with {self._process.returncode}: {last[:200]}"

    def end(self):
        """Ends the process with all that it started; whether it was still running."""
        if self._process.poll() is not None:
            return False
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return True


# In a process of its own ----------------------------------------------------------------------


def _in_this_process(options):
    for record in _PARTS[options.part](options):
        print(_MARK + json.dumps(record), flush=True)
    return 0


def _checks(options):
    from device_check import devices, kernels, parity

    rates = devices.rates(*((16, 256) if options.tiny else (2048, 8192)))
    yield {"part": "machine", "device": devices.name(), **rates}
    yield from kernels.records(options.tiny)
    yield from parity.records()


def _speed(options):
    from device_check import speed

    yield from speed.records(options.model)


def _theirs(options):
    from device_check import theirs

    yield from theirs.records(options.model)


_PARTS = {"checks": _checks, "speed": _speed, "theirs": _theirs}

if __name__ == "__main__":
    sys.exit(main())
