"""Compiled programs that outlive the process which compiled them."""

import hashlib
import os
import pathlib
import platform

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.typing import PathLike


def enable_compilation_cache(directory: PathLike | None = None) -> pathlib.Path:
    """The directory in which compiled programs are kept from now on, for later processes.

    A program is compiled when a model first meets a shape. Where one was compiled before, it is
    read instead, which takes a fraction of the time; tracing it in Python remains. Call this at
    the start of a program. On JAX all programs are kept; on TensorFlow those that XLA compiles,
    if none was compiled yet; on torch those of `torch.compile`.

    Programs are code that will be run: use no directory that others can write to.

    Args:
        directory: path, made if need be. By default one below Keras's own, for this kind of
            processor and backend: a program for another processor may fail.

    Returns:
        A `pathlib.Path`.

    Raises:
        NotImplementedError: the backend compiles nothing.

    Example:

    >>> keras_t5gemma2.enable_compilation_cache(directory) == directory
    True
    """
    backend = keras.config.backend()
    if backend not in _ENABLE:
        raise NotImplementedError(
            f"The backend must be one of {', '.join(_ENABLE)}, which compile programs. "
            f"Received: backend={shown(backend)}"
        )
    path = _default_directory(backend) if directory is None else pathlib.Path(directory)
    path = path.expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ENABLE[backend](str(path))
    return path


def _default_directory(backend):
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:16]
    home = os.environ.get("KERAS_HOME") or pathlib.Path("~", ".keras").expanduser()
    return pathlib.Path(home, "compiled", f"{backend}-{processor}")


def _processor():
    """What a compiled program may rely on: the kind of processor and all that it can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features")
    found = sorted({line for line in lines if line.startswith(wanted)})
    return "\n".join([platform.machine(), *found])


def _enable_on_jax(path):
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", path)
    # By default JAX keeps only what took a second. A model compiles many small programs as well.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # What was compiled before has settled on a directory, or on none.
    compilation_cache.reset_cache()


def _enable_on_tensorflow(path):
    flags = os.environ.get("TF_XLA_FLAGS", "").split()
    name = "--tf_xla_persistent_cache_directory"
    flags = [flag for flag in flags if not flag.startswith(f"{name}=")]
    os.environ["TF_XLA_FLAGS"] = " ".join([*flags, f"{name}={path}"])


def _enable_on_torch(path):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = path


_ENABLE = {
    "jax": _enable_on_jax,
    "tensorflow": _enable_on_tensorflow,
    "torch": _enable_on_torch,
}
