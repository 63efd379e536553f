"""Loading a checkpoint takes little more memory than its final weights."""

import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import pytest
from checkpoints_of_ones import write_checkpoint

pytestmark = pytest.mark.once  # a minute and more

# In a process of its own, since the peak is that of the whole life of a process. The tiny model
# goes first: what a first load takes once and for all is not the large one's. The growth counts
# from what is in memory just before, so that the peak of the imports can only add to it.
# (`resource.getrusage` would not do: its peak is the parent's too.)
LOAD = """
import sys
from keras_t5gemma2 import T5Gemma2Backbone

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

small, large, dtype = sys.argv[1:]
T5Gemma2Backbone.from_preset(small, text_only=True, dtype=dtype)
before = memory("VmRSS:")
model = T5Gemma2Backbone.from_preset(large, text_only=True, dtype=dtype)
print("GROWTH", memory("VmHWM:") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "stored_type, dtype, num_layers, num_shards",
    [
        (ml_dtypes.bfloat16, "bfloat16", 4, 3),
        pytest.param(ml_dtypes.bfloat16, "float32", 2, 1, marks=pytest.mark.slow),
        pytest.param("float32", "float32", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_peak_memory(stored_type, dtype, num_layers, num_shards):
    """About 330 MB of weights, a quarter of them in one tensor."""
    with tempfile.TemporaryDirectory() as directory:
        small, large = (pathlib.Path(directory) / name for name in ("small", "large"))
        write_checkpoint(small, stored_type, 32, num_layers, num_shards)
        count = write_checkpoint(large, stored_type, 1024, num_layers, num_shards)
        output = subprocess.run(
            [sys.executable, "-c", LOAD, small, large, dtype],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    growth = int(output.rpartition("GROWTH")[2])
    size = count * np.dtype(dtype).itemsize
    assert 3.2e8 < size < 3.4e8
    # The weights themselves are all there: less would mean that the measure is wrong.
    assert 0.8 * size < growth <= 1.2 * size, f"{growth / size:.3f} of the weights"
