"""What the files of the package import, at their top and inside of functions."""

import ast
import dataclasses
import functools
import pathlib

import keras_t5gemma2

PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BACKENDS = ("jax", "tensorflow", "torch")
_BACKEND = "keras.config.backend()"


@dataclasses.dataclass(frozen=True)
class Import:
    """One import.

    Args:
        target: dotted name of a module or of a file of the package; `None` where the name is made
            when the code runs.
        line: int, where it stands.
        is_late: whether that is inside of a function.
        chooses: whether the name is that of a file for the backend that is in use.
    """

    target: str | None
    line: int
    is_late: bool
    chooses: bool = False


def module_of(path):
    """The dotted name of a file: "kernels.ops.torch", or "kernels.ops" for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path):
    """List of `Import`, without those for type checkers only."""
    return _imports_of_text(path.read_text(), path)


@functools.cache
def _imports_of_text(text, path):
    return list(_imports(ast.parse(text), path, is_late=False))


def _imports(node, path, is_late):
    for name, chooses in _names(node, path):
        yield Import(name, node.lineno, is_late, chooses)
    is_late = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in _read_when_run(node):
        yield from _imports(child, path, is_late)


def _read_when_run(node):
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        return node.orelse
    return ast.iter_child_nodes(node)


def _names(node, path):
    """Pairs of a name that the node imports, and whether it is chosen by the backend."""
    if isinstance(node, ast.Import):
        return [(alias.name, False) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(name, False) for name in _names_from(node, path)]
    if isinstance(node, ast.Call) and _is_import_function(node.func):
        return _names_at_run_time(node.args[0])
    return []


def _names_from(node, path):
    module = node.module
    if node.level:  # relative to the folder, or to one above it
        folder = path.parents[node.level - 1].relative_to(PACKAGE.parent)
        module = ".".join([*folder.parts, *([node.module] if node.module else [])])
    names = [f"{module}.{alias.name}" for alias in node.names]
    # A module of a package is no import of what the package itself says.
    are_modules = [_is_file(name) for name in names]
    modules = [name for name, is_module in zip(names, are_modules, strict=True) if is_module]
    return modules if all(are_modules) else [*modules, module]


def _is_import_function(function):
    name = ast.unparse(function)
    return name in ("__import__", "import_module", "importlib.import_module")


def _names_at_run_time(argument):
    """Those of `"a.b"`; of `f"a.{keras.config.backend()}"`, one of three; `None` of others."""
    if isinstance(argument, ast.Constant):
        return [(argument.value, False)]
    if isinstance(argument, ast.JoinedStr) and len(argument.values) == 2:
        folder, chosen = argument.values
        if isinstance(folder, ast.Constant) and ast.unparse(chosen.value) == _BACKEND:
            return [(folder.value + backend, True) for backend in BACKENDS]
    return [(None, False)]


def _is_file(name):
    stem = PACKAGE.parent.joinpath(*name.split("."))
    return stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file()


def graph():
    """The files of the package to those that they import, wherever in them it stands."""
    edges = {module_of(path): set() for path in FILES}
    for path in FILES:
        for found in imports_of(path):
            if found.target and found.target.startswith(f"{PACKAGE.name}."):
                edges[module_of(path)].add(found.target.split(".", 1)[1])
    return edges


def circles(edges):
    """Sets of files each of which imports, by way of others, itself."""
    reached = {start: _reached_from(start, edges) for start in edges}
    found = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in edges
        if name in reached[name]
    }
    return sorted(map(sorted, found))


def _reached_from(start, edges):
    found, waiting = set(), [start]
    while waiting:
        for name in edges.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found
