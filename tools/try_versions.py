"""Tries the package in clean environments: several Pythons, oldest and newest releases.

    python tools/try_versions.py --pythons 3.11 3.13 --backends jax --releases lowest

Each environment gets the package from this directory and answers a question, embeds, trains for a
step, and reads what it has saved. A Python that is not on this machine, or a release that is not
found, is skipped, and the table says why.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
BACKENDS = ("jax", "torch")
# The oldest releases that these checks passed with; the newest are what pip takes.
LOWEST = {
    **{"keras": "3.15.0", "keras-hub": "0.32.0", "numpy": "2.1.0"},
    **{"jax": "0.7.0", "torch": "2.8.0"},
}
RELEASES = {"lowest": LOWEST, "highest": {}}
# What pip says where an index has no such release, or none for this Python.
_NOT_FOUND = ("No matching distribution found", "Could not find a version", "Requires-Python")

CHECK = """
import tempfile
import numpy as np
import keras_t5gemma2 as package

lm = package.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile("adam", sampler="greedy")
question = "Spell 42 in German."
assert lm.generate(question) == "zweiundvierzig", lm.generate(question)
embedder = package.T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
assert embedder.encode_text(["a", "b"]).shape == (2, 128)
history = lm.fit({"encoder_text": [question], "decoder_text": ["42"]}, verbose=0).history
assert np.isfinite(history["loss"]).all()
with tempfile.TemporaryDirectory() as directory:
    lm.save_to_preset(directory)
    again = package.T5Gemma2Seq2SeqLM.from_preset(directory)
again.compile(sampler="greedy")
assert again.generate(question) == lm.generate(question)
"""


def main(arguments=None):
    """Prints a table, and returns 1 where an environment has failed, or all were skipped."""
    options = _options(arguments)
    print("| Python | backend | releases | result |\n| --- | --- | --- | --- |", flush=True)
    results = []
    for version in options.pythons:
        python = find_python(version)
        for backend in options.backends:
            for name in options.releases:
                if python is None:
                    result = f"skipped: python{version} was not found"
                else:
                    result = tried(python, backend, RELEASES[name], options.timeout)
                results.append(result.partition(":")[0])
                print(f"| {version} | {backend} | {name} | {result} |", flush=True)
    return int("failed" in results or "passed" not in results)


def find_python(version, home=None):
    """The path of an interpreter, or `None`.

    Args:
        version: string, such as "3.12".
        home: path of the directory of pyenv, by default the one of this user.
    """
    home = pathlib.Path.home() / ".pyenv" if home is None else pathlib.Path(home)
    of_pyenv = sorted(home.glob(f"versions/{version}.*/bin/python"))
    for path in (shutil.which(f"python{version}"), *map(str, of_pyenv)):
        if path is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:  # a stub of a version manager says nothing
            return path
    return None


def tried(python, backend, releases, timeout=1800):
    """What comes of one environment: "passed", "skipped: ..." or "failed: ...".

    Args:
        python: path of an interpreter.
        backend: string.
        releases: dict of versions by the name of a distribution; those of other backends are left
            out.
        timeout: float, seconds of each step.
    """
    wanted = [f"{n}=={v}" for n, v in releases.items() if n not in BACKENDS or n == backend]
    with tempfile.TemporaryDirectory() as directory:
        inside = str(pathlib.Path(directory) / "bin" / "python")
        pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        check = [inside, "-c", CHECK]
        steps = ([python, "-m", "venv", directory], [*pip, f"{ROOT}[{backend}]", *wanted], check)
        for step in steps:
            environment = {"KERAS_BACKEND": backend, "PATH": "/usr/bin:/bin", "HOME": directory}
            try:
                found = _run(step, directory, environment, timeout)
            except subprocess.TimeoutExpired:
                return f"failed: a step took longer than {timeout:g} seconds"
            if found.returncode:
                lines = found.stderr.strip().splitlines() or ["no message"]
                missing = [x for x in lines if any(text in x for text in _NOT_FOUND)]
                if step is steps[1] and missing:
                    return f"skipped: {missing[-1].removeprefix('ERROR: ')}"
                return f"failed: {lines[-1]}"
    return "passed"


def _run(command, directory, environment, timeout):
    return subprocess.run(
        command,
        cwd=directory,
        env=environment | _kept(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _kept():
    """Settings of pip, and of the network, that an environment keeps."""
    names = ("PIP_", "HTTP_", "HTTPS_", "NO_PROXY", "SSL_", "REQUESTS_", "http", "no_proxy")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--releases", nargs="+", default=tuple(RELEASES), choices=tuple(RELEASES))
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of a step")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
