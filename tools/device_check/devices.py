"""The device of a backend: its name, its peak of memory, and the rates that it reaches."""

import importlib.util
import pathlib
import resource
import sys
import time

import keras
from keras import ops

ROOT = pathlib.Path(__file__).resolve().parents[2]


def of_benchmarks(name):
    """A file of `t5gemma2_cli/benchmarks`, without the command line, which needs a library."""
    path = ROOT / "t5gemma2_cli" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name():
    """What the device calls itself."""
    if keras.config.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    import jax

    return jax.devices()[0].device_kind


def wait(x):
    """Returns when the tensor is computed."""
    if keras.config.backend() == "jax":
        return x.block_until_ready()
    import torch

    return torch.cuda.synchronize() if torch.cuda.is_available() else None


def peak_bytes():
    """The most memory since the last `forget_peak`; on JAX and CPUs, of the process."""
    if keras.config.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    else:
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_peak():
    if keras.config.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def best_seconds(run, repeats=3):
    """Of the fastest of some runs, behind one that compiles."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def rates(mebibytes, size):
    """Bytes that are read and written, and operations of bfloat16 products, in a second."""
    import numpy as np

    from keras_t5gemma2 import kernels

    def timed(function, *tensors):
        program = kernels.compiled(lambda _, *x: function(*x), keras.Model())
        return best_seconds(lambda: wait(program((), *tensors)), 10)

    rows = ops.convert_to_tensor(np.ones((mebibytes << 9, 1024), "float16"))
    square = ops.cast(np.random.default_rng(0).standard_normal((size, size)), "bfloat16")
    of_copy = timed(lambda x: x + 1, rows)
    of_product = timed(ops.matmul, square, square)
    return {
        "bytes_per_second": 2 * (mebibytes << 20) / of_copy,
        "operations_per_second": 2 * size**3 / of_product,
    }
