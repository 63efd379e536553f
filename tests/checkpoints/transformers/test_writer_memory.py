"""Exporting a model takes little more memory than the model itself."""

import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import pytest
from checkpoints_of_ones import write_checkpoint

pytestmark = [pytest.mark.once, pytest.mark.slow]  # a minute and more

# As for loading: a process of its own, and a tiny model first. The growth counts from before the
# large model is loaded, so that it holds the weights once.
EXPORT = """
import sys
from keras_t5gemma2 import T5Gemma2Seq2SeqLM

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def convert(directory):
    lm = T5Gemma2Seq2SeqLM.from_preset(directory, text_only=True, dtype=dtype, preprocessor=None)
    lm.export_to_transformers(directory + "-out", dtype=written, max_shard_size=10**8)

small, large, dtype, written = sys.argv[1:]
convert(small)
before = memory("VmRSS:")
convert(large)
print("GROWTH", memory("VmHWM:") - before)
"""


@pytest.mark.parametrize(
    ("stored_type", "dtype", "written", "num_layers"),
    [
        (ml_dtypes.bfloat16, "bfloat16", "bfloat16", 4),
        ("float32", "float32", "bfloat16", 2),
    ],
)
def test_peak_memory(stored_type, dtype, written, num_layers):
    """About 330 MB of weights, a quarter of them in one tensor."""
    with tempfile.TemporaryDirectory() as directory:
        small, large = (pathlib.Path(directory) / name for name in ("small", "large"))
        write_checkpoint(small, stored_type, 32, num_layers)
        count = write_checkpoint(large, stored_type, 1024, num_layers)
        output = subprocess.run(
            [sys.executable, "-c", EXPORT, small, large, dtype, written],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        files = list(pathlib.Path(f"{large}-out").glob("model-*.safetensors"))
        total = sum(file.stat().st_size for file in files)
    assert 0 < total - count * np.dtype(written).itemsize < 1e6 and len(files) > 1
    growth = int(output.rpartition("GROWTH")[2])
    size = count * np.dtype(dtype).itemsize
    assert 3.2e8 < size < 3.4e8
    assert 0.8 * size < growth <= 1.2 * size, f"{growth / size:.3f} of the weights"
