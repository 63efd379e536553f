"""Loading quantized weights takes little more memory than they have, from floats or integers."""

import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import pytest
from checkpoints_of_ones import write_checkpoint

pytestmark = pytest.mark.once  # most of a minute

# As for loading floats: a process of its own, and a tiny model first.
LOAD = """
import sys
import numpy as np
from keras_t5gemma2 import T5Gemma2Backbone

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

small, large, mode, output = sys.argv[1:]
options = {"quantize": mode, "text_only": True} if output else {}
model = T5Gemma2Backbone.from_preset(small, dtype="bfloat16", **options)
if output:
    model.save_to_preset(output + "small")
before = memory("VmRSS:")
model = T5Gemma2Backbone.from_preset(large, dtype="bfloat16", **options)
print("GROWTH", memory("VmHWM:") - before)
print("SIZE", sum(int(np.prod(w.shape)) * np.dtype(w.dtype).itemsize for w in model.weights))
if output:
    model.save_to_preset(output + "large")
"""


@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_peak_memory(mode):
    """Of 165 million weights, which take 330 MB in bfloat16 and twice that in float32."""
    with tempfile.TemporaryDirectory() as directory:
        small, large, out = (pathlib.Path(directory) / name for name in ("small", "large", "o-"))
        write_checkpoint(small, ml_dtypes.bfloat16, 32, 4)
        count = write_checkpoint(large, ml_dtypes.bfloat16, 1024, 4)
        from_floats = run(small, large, mode, out)
        from_integers = run(f"{out}small", f"{out}large", mode, "")
    for growth, size in (from_floats, from_integers):
        assert size < (1.02 if mode == "int8" else 0.62) * count
        # Less than the weights would mean that the measure is wrong.
        assert 0.8 * size < growth <= 1.25 * size, f"{growth / size:.3f} of the weights"


def run(*arguments):
    """How much memory was taken at most, and how much the weights have."""
    command = [sys.executable, "-c", LOAD, *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    growth, _, size = output.rpartition("GROWTH")[2].partition("SIZE")
    return int(growth), int(size)
