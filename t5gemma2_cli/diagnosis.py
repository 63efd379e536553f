"""What `t5gemma2 doctor` finds out."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

_PACKAGES = (
    *("keras-t5gemma2", "keras", "keras-hub", "jax", "jaxlib", "tensorflow", "torch", "numpy"),
    *("tokenizers", "safetensors", "huggingface_hub", "kagglehub"),
)
_EXTRAS = {
    "gguf": ["gguf"],
    "evaluation": ["sacrebleu", "rouge_score"],
    "finetune": ["matplotlib", "pyarrow"],
    "serve": ["prometheus_client", "starlette", "uvicorn"],
}
_GIB = 1 << 30

# What each backend is asked: its version, its devices, and how fast it multiplies matrices.
_PROBE = """
import json, sys, time
name, side = sys.argv[1], 1024
def rate(run):
    run()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        run()
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - start)
if name == "jax":
    import jax, jax.numpy as np
    devices = [{"kind": d.platform, "name": d.device_kind,
                "bytes": (d.memory_stats() or {}).get("bytes_limit")} for d in jax.devices()]
    product, version = jax.jit(np.matmul), jax.__version__
    arrays = {t: np.ones((side, side), t) for t in ("float32", "bfloat16")}
    rates = {t: rate(lambda: product(x, x).block_until_ready()) for t, x in arrays.items()}
elif name == "torch":
    import torch
    version, cuda = torch.__version__, torch.cuda
    devices = [{"kind": "gpu", "name": cuda.get_device_name(n),
                "bytes": cuda.get_device_properties(n).total_memory}
               for n in range(cuda.device_count())]
    place, wait = ("cuda", cuda.synchronize) if devices else ("cpu", lambda: None)
    if not devices and torch.backends.mps.is_available():
        devices, place, wait = [{"kind": "gpu", "name": "mps"}], "mps", torch.mps.synchronize
    devices = devices or [{"kind": "cpu", "name": "cpu"}]
    arrays = {str(t)[6:]: torch.ones(side, side, dtype=t, device=place)
              for t in (torch.float32, torch.bfloat16)}
    rates = {t: rate(lambda: (x @ x, wait())) for t, x in arrays.items()}
else:
    import tensorflow as tf
    version = tf.__version__
    devices = [{"kind": d.device_type.lower(), "name": d.name}
               for d in tf.config.list_physical_devices()]
    arrays = {t: tf.ones((side, side), t) for t in ("float32", "bfloat16")}
    rates = {t: rate(lambda: tf.matmul(x, x)[0, 0].numpy()) for t, x in arrays.items()}
print()
print(json.dumps({"version": version, "devices": devices, "operations_per_second": rates}))
"""


def examine(backends, configured, online=False, timeout=120.0):
    """A dict of plain JSON about the machine.

    Args:
        backends: names.
        configured: name of the one that Keras would take.
        online: bool. Whether the hub may be asked.
        timeout: float, seconds for each backend.
    """
    probed = {name: probe(name, timeout) for name in backends}
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(_PACKAGES),
        "extras": {name: all(map(_is_there, roots)) for name, roots in _EXTRAS.items()},
        "cores": _cores(),
        "memory": memory(),
        "disk_free": shutil.disk_usage(_existing(_hub_cache())).free,
        "hub": hub_login(online),
        "nvidia": shutil.which("nvidia-smi") is not None,
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("cl"),
        "configured_backend": configured,
        "backends": probed,
        "works": "reason" not in probed.get(configured, {"reason": "unknown"}),
    }
    return {**found, "advice": advice(found)}


def probe(name, timeout):
    """What a backend says of itself; or the `reason` why it does not work."""
    if not _is_there(name):
        return {"reason": "not installed"}
    command = [sys.executable, "-c", _PROBE, name]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=quiet, check=False
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"took more than {timeout:g} s"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode:
        return {"reason": lines[-1] if lines else f"ended with {done.returncode}"}
    return json.loads(lines[-1])


def versions(packages):
    """The version of each package that is installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # Builds for one kind of device have names of their own.
            cpu = f"{name}-cpu"
            if name == "tensorflow" and _is_there(name):
                found[name] = next(iter(versions([cpu]).values()), "unknown")
    return found


def memory():
    """Bytes of the machine's memory, and of what is free of it; `None` where nobody says."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return {"total": sizes["MemTotal"], "available": sizes["MemAvailable"]}
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        total = None
    return {"total": total, "available": None}


def hub_login(online=False):
    """Whether there is a token of the Hugging Face hub; asked online, whose it is."""
    try:
        from huggingface_hub import get_token, whoami
    except ImportError as error:
        return {"token": False, "reason": str(error)}
    found = {"token": get_token() is not None, "cache": str(_hub_cache())}
    if online and found["token"]:
        try:
            found["name"] = whoami()["name"]
        except Exception as error:  # refused, or not reached: the hub's classes change
            found["reason"] = str(error).strip().splitlines()[0]
    return found


def advice(found):
    """Sentences about what to do, and about what would be fast."""
    lines = []
    working = {name: b for name, b in found["backends"].items() if "reason" not in b}
    if not working:
        return ["No backend works: pip install 'keras-t5gemma2[jax]'"]
    configured = found["configured_backend"]
    accelerated = {name: b for name, b in working.items() if _kind(b) != "cpu"}
    if accelerated:
        best = max(accelerated, key=lambda name: max(_rates(accelerated[name]).values()))
        rates = _rates(accelerated[best])
        dtype = max(rates, key=rates.get)
        lines.append(
            f"Fastest here: {best} on its {_kind(accelerated[best])}, in {dtype}"
            + ("" if best == configured else f": --backend {best}, or set KERAS_BACKEND={best}")
        )
    else:
        lines.append(
            "No accelerator is seen. On a CPU the backends are about as fast; jax and tensorflow "
            "compile generation by themselves, torch with jit_compile=True"
        )
    if not accelerated and found["nvidia"]:
        lines.append("There is an NVIDIA driver: install a backend's build for CUDA to use it")
    if not found["works"]:
        reason = found["backends"].get(configured, {}).get("reason", "unknown to Keras")
        lines.append(
            f"{configured}, which Keras would take, does not work ({reason}): "
            f"set KERAS_BACKEND={next(iter(accelerated or working))}"
        )
    slow = [name for name, b in working.items() if _is_slow_in_bfloat16(_rates(b))]
    lines.append(
        "Decoding reads every weight for every token: --dtype bfloat16 halves that"
        + (f"; long inputs are slower in it with {', '.join(slow)}" if slow else "")
    )
    if "torch" in working and not found["compiler"]:
        lines.append("torch compiles no steps (jit_compile=True): there is no C++ compiler")
    if not found["hub"]["token"]:
        lines.append("Published weights need a login: hf auth login (t5gemma2_tiny does not)")
    total = found["memory"]["total"]
    if total:
        lines.append(f"What fits: t5gemma2 plan --memory {0.9 * total / _GIB:.0f}")
    return lines


def as_text(found):
    """The findings for a terminal."""
    memory_of, hub = found["memory"], found["hub"]
    total, free = (_gib(memory_of[key]) for key in ("total", "available"))
    extras = [name for name, is_there in found["extras"].items() if is_there]
    token = f"token of {hub['name']}" if "name" in hub else "token found"
    lines = [
        f"Python {found['python']} on {found['system']}, {found['cores']} cores, "
        f"memory {total}, free {free}, disk {_gib(found['disk_free'])} free",
        "Packages: " + ", ".join(f"{name} {v}" for name, v in found["packages"].items()),
        f"Extras: {', '.join(extras) or 'none'}",
        f"Hugging Face: {token if hub['token'] else 'no token'}"
        + (f" ({hub['reason']})" if "reason" in hub else ""),
    ]
    for name, backend in found["backends"].items():
        mark = " (Keras would take it)" if name == found["configured_backend"] else ""
        if "reason" in backend:
            lines.append(f"{name}{mark}: {backend['reason']}")
            continue
        devices = ", ".join(
            device["name"] + (f" {_gib(device['bytes'])}" if device.get("bytes") else "")
            for device in backend["devices"]
        )
        speeds = ", ".join(f"{rate / 1e9:.2g} in {t}" for t, rate in _rates(backend).items())
        lines.append(
            f"{name}{mark}: {backend['version']}; {devices}; matrix products, "
            f"G operations/s: {speeds}"
        )
    return "\n".join([*lines, "", *found["advice"]])


def _kind(backend):
    """The kind of device that a backend takes."""
    return next((d["kind"] for d in backend["devices"] if d["kind"] != "cpu"), "cpu")


def _rates(backend):
    return backend["operations_per_second"]


def _is_slow_in_bfloat16(rates):
    return rates["bfloat16"] < 0.7 * rates["float32"]


def _cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count()


def _hub_cache():
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return pathlib.Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _existing(path):
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _is_there(name):
    return importlib.util.find_spec(name) is not None


def _gib(size):
    return "unknown" if size is None else f"{size / _GIB:.1f} GiB"
