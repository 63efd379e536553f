"""How the backends run in tests, which tests run on which, and what each test begins with."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Many tests compile the same small program for another model object: compile it once.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Most of the time on JAX and TensorFlow is XLA's, which optimizes programs that run once.
_XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# What is distributed is so over several devices, which on JAX one CPU can stand for.
if os.environ.get("KERAS_BACKEND") == "jax":
    _XLA_FLAGS += " --xla_force_host_platform_device_count=8"
    # Its newer emitters of fused loops take half of the time that it compiles for.
    _XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{_XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"

import keras
import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Makes slow what `make test` runs on fewer backends."""
    left_out = {"torch": (), "jax": ("once",), "tensorflow": ("once", "compiled")}
    for item in items:
        if any(item.get_closest_marker(name) for name in left_out[keras.config.backend()]):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _logging_stays_as_it_was():
    """A tool that is called with `--quiet` turns it off for the process."""
    before = keras.config.is_interactive_logging_enabled()
    yield
    if before:
        keras.config.enable_interactive_logging()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
