"""Who imports whom in the package: in order, in no circle, and late only what is heavy.

Imports inside of functions count. What still breaks the rules is listed under `TO_GO`: a test
fails when something joins a list, and when something in it is gone and must be struck out.
"""

import sys
import tomllib

import pytest
from package_imports import BACKENDS, FILES, PACKAGE, circles, graph, imports_of, module_of

# A file imports only from files above it, so that this is also the order to read them in.
ORDER = [
    *("messages", "compiling", "options", "typing", "config", "registry", "compat"),
    *("layer_config", "files", "arguments", "vocabulary"),
    *("kernels.compat", "kernels.runtime.platforms", "kernels.runtime.reference"),
    "kernels.runtime.torch_processes",
    *("kernels.runtime.jax", "kernels.runtime.tensorflow", "kernels.runtime.torch"),
    *("kernels.runtime", "kernels.ops.reference", "kernels.ops", "sharding", "kernels.loss"),
    *("kernels.attention.scaled", "kernels.attention.segments", "kernels.attention.slots"),
    *("kernels.attention.reference", "kernels.attention.blocked", "kernels.attention.torch_flash"),
    *("kernels.attention.jax_cudnn", "kernels.attention.torch_flex", "kernels.attention.jax"),
    *("kernels.attention.tensorflow", "kernels.attention.torch", "kernels.attention"),
    *("kernels.attention.write", "kernels.export", "kernels"),
    *("quantization", "lora", "checkpoints", "adapters.through_task", "model", "distribution"),
    *("preprocessing", "constraints", "generation", "training", "planning", "evaluation"),
    *("inspection", "export", "adapters", "tasks", "serving", "lm_eval", "cli"),
]

# Imports of our own files inside of functions.
LATE_TO_GO = {}
# Imports of files that stand further down.
BACK_TO_GO = {}
# Files that import themselves, by way of each other.
CIRCLES_TO_GO = []

# Comes with Keras and keras-hub, and costs nothing more. Pillow's plugins wait for the first image
# that is opened.
LIGHT = {"PIL", "keras", "keras_hub", "ml_dtypes", "numpy", "tokenizers"}
# The command line, which is imported without the package.
COMMAND = PACKAGE.parent / "t5gemma2_cli"
# Extras with what the package itself imports, of which a test knows the names.
EXTRAS = (
    *("jax", "tensorflow", "torch", "gguf", "finetune", "languages", "serve", "grammar"),
    *("lm-eval", "onnx", "ctranslate2"),
)
# A name that a user's argument decides.
UNKNOWN = {"evaluation.metrics"}


@pytest.mark.once
def test_files_import_only_from_files_above_them():
    for path in FILES:
        module = module_of(path)
        for found in imports_of(path):
            target = _inside(found.target)
            to_go = LATE_TO_GO.get(module, set()) | BACK_TO_GO.get(module, set())
            if module == "__init__" or target is None or target in to_go:
                continue
            if found.is_late and _is_chosen_by_kernels(module, target):
                continue
            assert _rank(target) <= _rank(module), f"{module}:{found.line} imports {target}"


@pytest.mark.once
def test_our_files_are_imported_at_the_top():
    """But for those of a backend, among which `kernels` chooses."""
    late = {}
    for path in FILES:
        module = module_of(path)
        for found in imports_of(path):
            target = _inside(found.target)
            if found.is_late and target and not _is_chosen_by_kernels(module, target):
                late.setdefault(module, set()).add(target)
    _check_list("LATE_TO_GO", _pairs(late), _pairs(LATE_TO_GO))


@pytest.mark.once
def test_no_file_imports_itself_by_way_of_others():
    found = circles(graph())
    assert len(found) == len(CIRCLES_TO_GO), f"circles of imports: {found}"
    for circle, listed in zip(found, CIRCLES_TO_GO, strict=True):
        _check_list("CIRCLES_TO_GO", set(circle), set(listed))


@pytest.mark.once
def test_only_heavy_libraries_are_imported_late():
    for path in FILES:
        for found in imports_of(path):
            root = (found.target or "").split(".")[0]
            if found.is_late and root != PACKAGE.name:
                # Pillow's other modules are loaded by nobody else.
                is_light = root in (LIGHT - {"PIL"}) | sys.stdlib_module_names
                assert not is_light, f"{path}:{found.line} imports {root}: move it to the top"


@pytest.mark.once
def test_every_name_that_is_imported_is_known():
    for path in FILES:
        for found in imports_of(path):
            if found.chooses:
                assert _is_of_kernels(path), f"{path}:{found.line}"
            known = found.target is not None or module_of(path) in UNKNOWN
            assert known, f"{path}:{found.line} imports what its text does not say"


@pytest.mark.once
def test_backends_are_imported_in_kernels_only():
    """But for `traced`, which runs inside a `tf.data` pipeline that somebody else built."""
    for path in FILES:
        if _is_of_kernels(path) or path.name == "traced.py":
            continue
        roots = {(found.target or "").split(".")[0] for found in imports_of(path)}
        assert not roots & set(BACKENDS), path


@pytest.mark.once
def test_nothing_heavy_is_imported_with_the_package():
    """Hubs, plots and the reference come when they are needed: importing stays quick."""
    for path in _files_of_the_import():
        allowed = LIGHT | sys.stdlib_module_names | {PACKAGE.name}
        if _is_of_kernels(path):
            allowed = allowed | set(BACKENDS)
        roots = {name.split(".")[0] for name in _at_the_top(path)}
        assert roots <= allowed, path


@pytest.mark.once
def test_what_is_imported_is_declared_as_a_dependency_and_nothing_else():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(x for name in EXTRAS for x in extras[name])]
    # What runs an exported model is imported by its users, and what converts one by CTranslate2.
    by_others = {"onnxruntime", "transformers"}
    declared = {_module_of_requirement(text) for text in needed} - by_others
    files = [*FILES, *COMMAND.glob("*.py")]  # what benchmarks compare with is an extra of its own
    names = [found.target for path in files for found in imports_of(path)]
    roots = {name.split(".")[0] for name in names if name is not None}
    assert roots - sys.stdlib_module_names - {PACKAGE.name, COMMAND.name} == declared


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("def f():\n    import keras_t5gemma2.config", [("keras_t5gemma2.config", True)]),
        ("f = lambda: __import__('numpy')", [("numpy", True)]),
        ("from . import torch", [("keras_t5gemma2.kernels.ops.torch", False)]),
        ("from ... import config", [("keras_t5gemma2.config", False)]),
        ("from ...config import StackConfig", [("keras_t5gemma2.config", False)]),
        ("from keras_t5gemma2 import config, options", ["config", "options"]),
        ("import importlib\nimportlib.import_module(name)", [("importlib", False), (None, False)]),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import jax", [("jax", False)]),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", [("torch", False)]),
    ],
)
def test_imports_of(tmp_path, monkeypatch, text, want):
    path = PACKAGE / "kernels" / "ops" / "made_up.py"
    monkeypatch.setattr(type(path), "read_text", lambda self: text)
    want = [pair if isinstance(pair, tuple) else (f"keras_t5gemma2.{pair}", False) for pair in want]
    assert [(found.target, found.is_late) for found in imports_of(path)] == want


@pytest.mark.once
def test_circles():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(edges) == [["b", "c"], ["e"]]


def _check_list(name, found, listed):
    new, gone = sorted(found - listed), sorted(listed - found)
    assert not new, f"against the rules, and not in {name}: {new}"
    assert not gone, f"no longer there, to be struck out of {name}: {gone}"


def _pairs(lists):
    return {f"{module} -> {target}" for module, targets in lists.items() for target in targets}


def _inside(target):
    """The name of a file of the package without the package's own; else `None`."""
    is_ours = target is not None and target.startswith(f"{PACKAGE.name}.")
    return target.split(".", 1)[1] if is_ours else None


def _is_chosen_by_kernels(module, target):
    """As `attention.torch` imports `attention.torch_flex`, on the machines that it serves."""
    folder, _, file = target.rpartition(".")
    is_there = folder.startswith("kernels.") and module.startswith(f"{folder}.")
    return is_there and file.startswith(BACKENDS)


def _is_of_kernels(path):
    return PACKAGE / "kernels" in path.parents


def _rank(module):
    found = [i for i, part in enumerate(ORDER) if f"{module}.".startswith(f"{part}.")]
    return max(found, key=lambda i: len(ORDER[i])) if found else -1


def _at_the_top(path):
    return [found.target for found in imports_of(path) if found.target and not found.is_late]


def _files_of_the_import():
    """The files that `import keras_t5gemma2` reads."""
    found, waiting = set(), [PACKAGE / "__init__.py"]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for name in _at_the_top(path):
            if name.split(".")[0] == PACKAGE.name:
                stem = PACKAGE.joinpath(*name.split(".")[1:])
                files = {stem.with_suffix(".py"), stem / "__init__.py"}
                waiting += [file for file in files if file.is_file() and file not in found]
    return sorted(found)


def _module_of_requirement(text):
    name = text.split(";")[0].split("[")[0]
    for sign in "<>=~!":
        name = name.split(sign)[0]
    return {"Pillow": "PIL"}.get(name.strip(), name.strip().replace("-", "_"))
