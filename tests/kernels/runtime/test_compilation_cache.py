"""Compiled programs that a second process finds."""

import json
import os
import subprocess
import sys

import keras
import pytest
from repository import environment

import keras_t5gemma2
from keras_t5gemma2.kernels.runtime import compilation_cache

BACKEND = keras.config.backend()

_GENERATE = """
import json, sys
import keras_t5gemma2
print(keras_t5gemma2.enable_compilation_cache(sys.argv[1]), file=sys.stderr)
import jax
found = {"hits": 0, "misses": 0}
def listen(event, **kwargs):
    if event.startswith("/jax/compilation_cache/cache_"):
        found[event.rpartition("_")[2]] += 1
jax.monitoring.register_event_listener(listen)
from tasks import small_task
print(small_task().generate("the cat", max_new_tokens=3), file=sys.stderr)
print(json.dumps(found))
"""

_XLA = """
import json, pathlib, sys
import keras_t5gemma2
directory = keras_t5gemma2.enable_compilation_cache(sys.argv[1])
import tensorflow as tf
double = tf.function(lambda x: tf.tanh(x) * 2.0, jit_compile=True)
double(tf.ones((3, 5)))
print(json.dumps(sorted([path.name, path.stat().st_mtime_ns] for path in directory.iterdir())))
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="counts what JAX alone reports")
def test_a_second_process_compiles_nothing(tmp_path):
    first, second = (_run(_GENERATE, tmp_path) for _ in range(2))
    assert first["misses"] > 0
    assert second["misses"] == 0
    assert second["hits"] == first["hits"] + first["misses"]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="the cache of JAX")
def test_programs_are_kept_even_if_some_were_compiled_before(tmp_path):
    """JAX settles on its cache with the first program, as that of an earlier import."""
    import jax

    def program(x):
        return x * 7 + 13

    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))

    settings = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        jax.jit(lambda x: x * 3 + 11)(5)
        keras_t5gemma2.enable_compilation_cache(tmp_path)
        jax.jit(program)(5)
        assert list(tmp_path.iterdir())
        assert "/jax/compilation_cache/cache_misses" in events

        events.clear()
        jax.clear_caches()  # as a new process begins
        jax.jit(program)(5)
        assert "/jax/compilation_cache/cache_hits" in events
        assert "/jax/compilation_cache/cache_misses" not in events
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the cache of TensorFlow's XLA")
def test_xla_programs_are_read_by_a_second_process(tmp_path):
    first, second = (_run(_XLA, tmp_path) for _ in range(2))
    assert len(first) == 1
    assert second == first


@pytest.mark.skipif(BACKEND != "torch", reason="the cache of torch.compile")
def test_torch_compile_keeps_its_programs_there(tmp_path, monkeypatch):
    from torch._inductor.runtime import cache_dir_utils

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back afterwards
    directory = keras_t5gemma2.enable_compilation_cache(tmp_path / "made")
    assert cache_dir_utils.cache_dir() == str(directory) == str(tmp_path / "made")


@pytest.mark.once
def test_flags_of_the_user_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--a=1 --tf_xla_persistent_cache_directory=/old --b=2")
    compilation_cache._enable_on_tensorflow(str(tmp_path))
    flags = os.environ["TF_XLA_FLAGS"].split()
    assert flags == ["--a=1", "--b=2", f"--tf_xla_persistent_cache_directory={tmp_path}"]


@pytest.mark.once
def test_by_default_each_kind_of_processor_has_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_ENABLE", {BACKEND: lambda path: None})
    one = keras_t5gemma2.enable_compilation_cache()
    assert one.is_dir() and one.parent == tmp_path / "compiled"
    assert one == keras_t5gemma2.enable_compilation_cache()
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "another")
    assert keras_t5gemma2.enable_compilation_cache() != one


@pytest.mark.once
def test_a_backend_that_compiles_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match="backend='numpy'"):
        keras_t5gemma2.enable_compilation_cache(tmp_path)


def _run(code, directory):
    ran = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])
