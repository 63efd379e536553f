"""What the benchmarks share: a process of its own for each measurement, and its peak of memory.

Memory is resident memory, as Linux counts it.
"""

import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

_SECONDS_BETWEEN_LOOKS = 0.05
_LONGEST_REASON = 120
# What the reason of a process that was ended at a limit begins with.
TOO_MUCH = ("takes more than", "needs more than")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Where a process is ended.

    Args:
        seconds: float.
        resident_bytes: int.
    """

    seconds: float = float("inf")
    resident_bytes: float = float("inf")


def measure_alone(script, case, environment=None, limits=None):
    """What `script --measure CASE` prints as its last line, which is JSON.

    Args:
        script: path of a Python file.
        case: what JSON can hold.
        environment: dict of variables, on top of those of this process.
        limits: `Limits`, by default none.

    Returns:
        What was printed; or a dict of `reason`, a string, where the process failed or was ended.
    """
    limits = limits or Limits()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), "--measure", json.dumps(case)],
            stdout=out,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        try:
            reason = _wait(process, limits)
        finally:
            process.kill()
            process.wait()
        lines = _lines(out)
        if reason is None and process.returncode == 0 and lines:
            return json.loads(lines[-1])
        return {"reason": reason or _reason_of(process.returncode, _lines(errors))}


def run(arguments):
    """Runs a Python file with arguments; what it prints is seen.

    Raises:
        SystemExit: it failed.
    """
    if status := subprocess.run([sys.executable, *map(str, arguments)], check=False).returncode:
        raise SystemExit(f"{arguments} failed with status {status}, see above.")


def available_bytes():
    """Memory that can be had without pushing anything out."""
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024


def _wait(process, limits):
    """`None` once the process has ended of itself, or why it must not go on."""
    start = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - start > limits.seconds:
            return f"{TOO_MUCH[0]} {limits.seconds:.0f} s"
        try:
            resident = _status("VmRSS", process.pid)
        except (OSError, TypeError):
            resident = 0  # it has just ended
        if resident > limits.resident_bytes:
            return f"{TOO_MUCH[1]} {limits.resident_bytes / (1 << 30):.1f} GiB"
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return None


def _lines(file):
    file.seek(0)
    return [line for line in file.read().splitlines() if line.strip()]


def _reason_of(code, errors):
    if code < 0:
        return f"ended by signal {-code}" + (", maybe for want of memory" if code == -9 else "")
    last = errors[-1].strip() if errors else f"failed with status {code}"
    return last if len(last) <= _LONGEST_REASON else f"{last[:_LONGEST_REASON]}..."


# In the process that measures -----------------------------------------------------------------


def start_of_peak():
    """Resident bytes now; from here on `peak` counts."""
    gc.collect()
    if sys.platform == "linux":
        # What is free but still in the heap would count as if it were in use.
        ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak():
    """The most bytes that were resident since `start_of_peak`."""
    return _status("VmHWM")


def _status(key, process="self"):
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) * 1024
