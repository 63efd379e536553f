"""The tests of a module stand where the module stands, under its name."""

import ast

import pytest
from repository import ROOT

PACKAGE = ROOT / "keras_t5gemma2"
TESTS = ROOT / "tests"
# What is tested that is no module: the package as a whole, and the tools beside it.
BESIDE = ("whole", "tools", "helpers")


def modules_with_public_functions(package):
    """Paths without suffix, as `model/attention`, of files that define what others call."""
    found = []
    for path in sorted(package.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        defined = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        if any(not node.name.startswith("_") for node in defined):
            found.append(str(path.relative_to(package).with_suffix("")))
    return found


def files_of_tests(tests):
    """Paths without suffix of the files of tests, `test_` left out: `model/attention`."""
    paths = (path.relative_to(tests).with_suffix("") for path in sorted(tests.rglob("test_*.py")))
    return [str(path.with_name(path.name[5:])) for path in paths if path.parts[0] not in BESIDE]


def is_of(test, module):
    """Whether a file is that of a module, or of one aspect of it: `attention_windows`."""
    return test == module or test.startswith(f"{module}_")


MODULES = modules_with_public_functions(PACKAGE)
FILES = files_of_tests(TESTS)


@pytest.mark.once
def test_every_module_has_its_test():
    """Move tests of the module there from where they stand, or write the first one."""
    without = {module for module in MODULES if not any(is_of(file, module) for file in FILES)}
    assert not without, "These modules have no test of their name"


@pytest.mark.once
def test_every_test_has_its_module():
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    of_none = [file for file in FILES if not any(is_of(file, str(path)) for path in paths)]
    assert not of_none, f"Name them after a module, or move them to one of {BESIDE}"


@pytest.mark.once
def test_what_is_missing_is_found(tmp_path):
    for name in ("room/one.py", "room/two.py", "room/private.py"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        text = "def _hidden(): ..." if "private" in name else "def public(): ..."
        (tmp_path / "package" / name).write_text(text)
    for name in ("room/test_one_more.py", "whole/test_all.py", "room/test_twofold.py"):
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).touch()
    modules = modules_with_public_functions(tmp_path / "package")
    files = files_of_tests(tmp_path / "tests")
    assert (modules, files) == (["room/one", "room/two"], ["room/one_more", "room/twofold"])
    assert [[is_of(file, module) for file in files] for module in modules] == [
        [True, False],
        [False, False],
    ]
