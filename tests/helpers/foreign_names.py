"""What the files of the package use of other libraries that these keep private."""

import ast
import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import textwrap
import typing
from typing import Protocol

import keras
from package_imports import FILES, PACKAGE

import keras_t5gemma2

# With an underscore, and in Python's documentation all the same.
DOCUMENTED = {"_asdict", "_fields", "_getframe", "_make", "_replace"}
_BY_NAME = ("getattr", "hasattr", "setattr", "delattr")


def is_private(name):
    """Whether a name has one leading underscore."""
    is_hidden = name.startswith("_") and not name.startswith("__") and name != "_"
    return is_hidden and name not in DOCUMENTED


def uses(text, names_of_parents=None, assigned=frozenset()):
    """Set of the foreign insides that a text uses.

    They are attributes and imports with a leading underscore or of the name `src`, of anything
    but `self`, `cls` and `super()`; names in `getattr` and the like, and keys of `vars(...)`, also
    where they are put together; attributes of other objects that are assigned; and what a class
    uses or defines of the private names of its parents.

    Args:
        text: string, the text of a file.
        names_of_parents: dict from the names of classes to sets of the names that other libraries'
            classes among their parents keep private.
        assigned: set of the attributes that may be assigned.
    """
    return _uses(ast.parse(text), names_of_parents or {}, assigned, frozenset())


def _uses(node, names_of_parents, assigned, inherited):
    found = set()
    if isinstance(node, ast.Attribute):
        found |= _of_attribute(node, inherited, assigned)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        found |= _of_import(node)
    elif isinstance(node, ast.Call):
        found |= _of_call(node)
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value).startswith("vars("):
        found |= _of_name(node.slice)
    elif isinstance(node, ast.ClassDef):
        inherited = names_of_parents.get(node.name, frozenset())
        found |= {getattr(statement, "name", "") for statement in node.body} & inherited
    for child in ast.iter_child_nodes(node):
        found |= _uses(child, names_of_parents, assigned, inherited)
    return found


def _of_attribute(node, inherited, assigned):
    if _is_own(node.value):
        return {node.attr} & inherited
    if is_private(node.attr) or node.attr == "src":
        return {node.attr}
    is_assigned = not isinstance(node.ctx, ast.Load) and node.attr not in assigned
    return {f"{node.attr} ="} if is_assigned else set()


def _is_own(owner):
    return ast.unparse(owner) in ("self", "cls", "super()")


def _of_import(node):
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{name}" for name in names]
    return {n for n in names if any(part == "src" or is_private(part) for part in n.split("."))}


def _of_call(node):
    function = ast.unparse(node.func)
    if function in _BY_NAME:
        found = _of_name(node.args[1])
        is_foreign = function in ("setattr", "delattr") and not _is_own(node.args[0])
        return found | ({f"{function}({ast.unparse(node.args[0])})"} if is_foreign else set())
    if function.startswith("vars(") and node.args:  # `vars(layer).pop("_kernel")`
        return _of_name(node.args[0])
    return set()


def _of_name(node):
    """Of a string, or of what begins one that is put together."""
    if isinstance(node, ast.JoinedStr):
        first = node.values[0]
        is_hidden = isinstance(first, ast.Constant) and first.value.startswith("_")
        return {ast.unparse(node)} if is_hidden else set()
    is_name = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return {node.value} if is_name and is_private(node.value) else set()


@functools.cache
def own_attributes():
    """The attributes that classes of the package declare, or assign to `self`."""
    return frozenset().union(*(_declared(ast.parse(path.read_text())) for path in FILES))


def _declared(tree):
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_own(node.value):
            found |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                found |= {name.id for name in targets if isinstance(name, ast.Name)}
                found |= {getattr(statement, "name", "")}
    return found


@functools.cache
def names_of_parents():
    """Private names of the classes of other libraries that those of the package inherit from.

    A mixin inherits from what is beside it in the classes that it is mixed into.

    Returns:
        dict from the module of a class to a dict from its name to a set of names.
    """
    found = {}
    classes = [cls for cls in _classes() if not typing.is_typeddict(cls)]
    for cls in classes:
        heirs = [other for other in classes if issubclass(other, cls)]
        parents = {parent for heir in heirs for parent in heir.__mro__}
        if any(issubclass(heir, keras.Model) for heir in heirs):
            parents |= set(_functional().__mro__)  # Keras adds them with the first instance
        foreign = [parent for parent in parents if not parent.__module__.startswith(PACKAGE.name)]
        names = frozenset().union(*map(_private_names, foreign))
        found.setdefault(cls.__module__, {})[cls.__name__] = names
    return found


def _functional():
    inputs = keras.Input((3,))
    return type(keras.Model(inputs, keras.layers.Dense(2)(inputs)))


def _classes():
    for module in pkgutil.walk_packages(keras_t5gemma2.__path__, f"{PACKAGE.name}."):
        if ".kernels." not in module.name:  # where there are files for other backends
            importlib.import_module(module.name)
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(PACKAGE.name)]
    found = {c for m in modules for c in vars(m).values() if isinstance(c, type)}
    ours = [c for c in found if c.__module__.startswith(PACKAGE.name)]
    return [c for c in ours if Protocol not in c.__bases__]  # which say what others must have


@functools.cache
def _private_names(cls):
    names = set(vars(cls))
    with contextlib.suppress(OSError, TypeError):  # a class without Python source
        names |= _declared(ast.parse(textwrap.dedent(inspect.getsource(cls))))
    return frozenset(filter(is_private, names))
