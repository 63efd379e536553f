"""The set-up of `make demo` and `make test`, with stand-ins for Python, pip and df."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from repository import ROOT

pytestmark = pytest.mark.once


# Does what a Python does for the Makefile: runs the checks (with the version and the modules that
# the test wants), makes an environment with itself inside, and notes down whatever else it is
# asked for. PIP_FAILS makes its pip fail, BACKEND_FAILS the tests on that backend.
FAKE_PYTHON = """#!/bin/sh
case $1 in
-c) exec "{python}" -S -c "import sys; sys.version_info = {version}; {prelude}; $2" ;;
--version) echo Python of the test; exit ;;
esac
echo "${{KERAS_BACKEND-setup}}: $*" >>"$CALLS"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") [ -z "${{PIP_FAILS-}}" ] ;;
"-m pytest") [ "$KERAS_BACKEND" != "${{BACKEND_FAILS-}}" ] ;;
esac
"""

# As POSIX `df -P` prints it, with a space in the name of the file system.
FAKE_DF = """#!/bin/sh
[ "$1" = -Pk ] && [ -d "$2" ] || exit 1
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "a disk {total} {used} {free} 7% /"
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the files that make reads, a Python of version 3.13.0 and 11 GB of free disk."""
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "pyproject.toml", "tools/check_machine.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake_python(tmp_path)
    fake_disk(tmp_path, gigabytes=11)
    return tmp_path


def test_checks_pass_on_this_machine():
    command = ["sh", ROOT / "tools" / "check_machine.sh", sys.executable, "0", ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_python(project):
    error = fails(project, "test", PYTHON="python3.99")
    assert "PYTHON=python3.99: no such command" in error
    assert "make test PYTHON=python3.12" in error


def test_python_that_does_not_run(project):
    script(project / "bin" / "stub", "#!/bin/sh\necho no such version installed >&2\nexit 127\n")
    assert "PYTHON=stub does not run: no such version installed" in fails(
        project, "test", PYTHON="stub"
    )


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_old_python(project, target):
    fake_python(project, version=(3, 10, 13))
    error = fails(project, target)
    assert "PYTHON=python3 is Python 3.10.13, and keras_t5gemma2 needs 3.11 or newer" in error
    assert calls(project) == []


def test_oldest_python(project):
    fake_python(project, version=(3, 11, 0))
    make(project, "test")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_python_without_venv(project, module):
    # Python raises ImportError for a module that stands as None here.
    fake_python(project, prelude=f"sys.modules['{module}'] = None")
    error = fails(project, "test")
    assert "(Python 3.13.0) cannot make environments: no module venv or ensurepip" in error
    assert "apt install python3-venv" in error


@pytest.mark.parametrize(("target", "needed", "free"), [("test", 6, 5), ("demo", 5, 4)])
def test_too_little_disk(project, target, needed, free):
    fake_disk(project, gigabytes=free)
    error = fails(project, target)
    assert f"{free} GB of disk are free for .venv" in error
    assert f"it needs {needed} GB" in error
    make(project, target, MIN_FREE_GB=str(free))


def test_unreadable_disk(project):
    script(project / "bin" / "df", "#!/bin/sh\necho what\n")
    assert "df does not say how much disk is free" in fails(project, "test")
    make(project, "test", MIN_FREE_GB="0")


def test_free_disk_of_half_a_gigabyte(project):
    assert "MIN_FREE_GB=0.5 is no whole number" in fails(project, "test", MIN_FREE_GB="0.5")


def test_unknown_backend(project):
    assert "unknown backend: mxnet. Choose among jax, tensorflow and torch" in fails(
        project, "demo", BACKEND="mxnet"
    )


def test_tests_run_once_on_each_backend(project):
    printed = make(project, "test", PYTEST_ARGS="-x -k 'text or image'")
    pip = "setup: -m pip install --no-input --disable-pip-version-check"
    assert calls(project) == [
        "setup: -m venv .venv",
        f"{pip} torch==2.13.0",
        f"{pip} --editable .[jax,tensorflow,torch,tests]",
        "jax: -m pytest -n 2 --dist loadfile -x -k text or image",
        "tensorflow: -m pytest -n 2 --dist loadfile -x -k text or image",
        "torch: -m pytest -n 2 --dist loadfile -x -k text or image",
    ]
    for backend in ("jax", "tensorflow", "torch"):
        assert f"== Tests on {backend}" in printed


def test_slow_tests_are_chosen_by_their_marker(project):
    make(project, "test-slow", BACKENDS="torch")
    assert calls(project)[-1] == "torch: -m pytest -n 2 --dist loadfile -m slow"


def test_the_compiler_for_tpus_joins_the_environment_of_tests(project):
    make(project, "test", BACKENDS="torch")
    first = calls(project)
    make(project, "test-tpu", PYTEST_ARGS="-k encode")
    pip = "setup: -m pip install --no-input --disable-pip-version-check"
    tests = "jax: -m pytest -m tpu -n 2 -k encode"
    assert calls(project)[len(first) :] == [f"{pip} --editable .[aot]", tests]
    make(project, "test-tpu", PYTEST_ARGS="-k encode")
    assert calls(project)[len(first) :] == [f"{pip} --editable .[aot]", tests, tests]


def test_the_check_of_a_gpu_makes_no_environment(project):
    make(project, "gpu", MINUTES="3", TABLES="here")
    assert calls(project) == ["setup: tools/check_device.py --minutes 3 --out here"]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_one_failing_backend_fails_after_all_have_run(project, backend):
    error = fails(project, "test", env={"BACKEND_FAILS": backend})
    assert f"== Tests failed on: {backend}" in error
    assert backends(project)[-3:] == ["jax", "tensorflow", "torch"]


def test_second_run_installs_nothing(project):
    make(project, "test")
    first = calls(project)
    make(project, "test", PYTHON="python3.99")
    assert calls(project)[len(first) :] == first[-3:]


def test_changed_requirements_are_installed(project):
    make(project, "environment")
    first = calls(project)
    stamp = (project / ".venv" / ".ready").stat().st_mtime
    os.utime(project / "pyproject.toml", (stamp + 5, stamp + 5))
    make(project, "environment")
    assert calls(project) == first + first


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_demo_installs_its_backend_and_runs_on_it(project, backend):
    make(project, "demo", BACKEND=backend)
    _, *installs, run = calls(project)
    wanted = ["torch==2.13.0"] * (backend == "torch") + [f".[{backend},demo]"]
    assert [line.split()[-1] for line in installs] == wanted
    assert run.startswith(f"{backend}: ")


def test_extras_that_are_installed_exist(project):
    """pip only warns about an extra that it does not know."""
    for backend in ("jax", "tensorflow", "torch"):
        make(project, "demo", BACKEND=backend)
    make(project, "test")
    make(project, "test-tpu")
    installed = re.findall(r"--editable \.\[(.*)\]", "\n".join(calls(project)))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert len(installed) == 5
    assert set(",".join(installed).split(",")) <= set(known)


def test_second_backend_joins_the_demo(project):
    make(project, "demo")
    (project / ".venv-demo" / "kept").touch()
    make(project, "demo", BACKEND="torch")
    make(project, "demo")
    assert (project / ".venv-demo" / "kept").exists()
    assert backends(project) == ["jax", "torch", "jax"]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_interrupted_installation_starts_over(project, target):
    directory = project / {"demo": ".venv-demo", "test": ".venv"}[target]
    error = fails(project, target, env={"PIP_FAILS": "1"})
    assert "failed; the reason stands above" in error
    assert f"make {target} PYTHON=python3.12" in error
    assert backends(project) == []
    (directory / "broken").touch()

    assert f"{directory.name} is half made: starting over" in make(project, target)
    assert not (directory / "broken").exists()
    assert not (directory / ".unfinished").exists()


def test_environment_made_by_hand_is_kept(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "by_hand").touch()
    make(project, "test")
    assert (project / ".venv" / "by_hand").exists()


def test_ci_runs_lint_and_tests(project):
    (project / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", project / ".ci" / "run")
    command = ["bash", project / ".ci" / "run"]
    done = subprocess.run(command, env=environment(project), cwd="/", check=False)
    assert done.returncode == 0
    assert calls(project)[3:] == [
        "setup: -m ruff check .",
        "setup: -m ruff format --check .",
        "torch: -m pytest -q -m  tests/test_typing.py",
        "jax: -m pytest -n 2 --dist loadfile",
        "tensorflow: -m pytest -n 2 --dist loadfile",
        "torch: -m pytest -n 2 --dist loadfile",
    ]


def fake_python(project, version=(3, 13, 0), prelude="pass"):
    text = FAKE_PYTHON.format(python=sys.executable, version=version, prelude=prelude)
    script(project / "bin" / "python3", text)


def fake_disk(project, gigabytes):
    blocks = 1024 * 1024 * gigabytes
    text = FAKE_DF.format(total=3 * blocks, used=2 * blocks, free=blocks)
    script(project / "bin" / "df", text)


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(project, target, env=None, **variables):
    """What `make target` prints; it must succeed."""
    done = _make(project, target, env, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fails(project, target, env=None, **variables):
    """What `make target` prints as errors; it must fail."""
    done = _make(project, target, env, variables)
    assert done.returncode != 0, done.stdout
    return done.stderr


def calls(project):
    """What the stand-in for Python was asked to do, apart from what the checks ask."""
    path = project / "calls"
    return path.read_text().splitlines() if path.exists() else []


def backends(project):
    """The backends of the tests and demos that ran, in order."""
    return [name for name in (line.split(":")[0] for line in calls(project)) if name != "setup"]


def _make(project, target, env, variables):
    command = ["make", target, *(f"{name}={value}" for name, value in variables.items())]
    env = environment(project) | (env or {})
    return subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, check=False
    )


def environment(project):
    """Nothing of the caller's: it may itself be a make with variables of its own."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "CALLS": str(project / "calls")}
