"""The examples in docstrings: each public name has one, and each of them runs."""

import doctest
import gc
import importlib
import os
import pathlib

import keras
import numpy as np
import pytest
from public_api import Member, is_ours, members, owners

import keras_t5gemma2

pytestmark = pytest.mark.once

PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent
BACKENDS = ("jax", "tensorflow", "torch")

# What Keras calls, or what means what Keras says it means: its own documents have the examples.
OF_KERAS = {
    *("call", "compute_loss", "compute_output_spec", "get_metrics_result", "make_train_function"),
    *("train_step", "test_step", "predict_step", "get_quantization_layer_structure"),
    *("get_config", "from_config", "get_compile_config", "compile_from_config"),
    *("save_assets", "load_assets", "save_own_variables", "load_own_variables"),
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_train_batch_end"),
}
# Examples that show what cannot be done here.
NOT_RUN = {
    "T5Gemma2Task.from_gemma3": "needs a Gemma 3 model",
    "T5Gemma2Task.push_to_hub": "needs an account of the hub",
}
# Examples of what one backend alone does.
OF_ONE_BACKEND = {
    "distribution.distribute": "jax",
    "tasks.task.T5Gemma2Task.export": "tensorflow",
}


def modules():
    """The modules that have examples, but for those of other backends."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
        is_of_others = name.rpartition(".")[2].startswith(BACKENDS)
        if not is_of_others and ">>>" in path.read_text(encoding="utf-8"):
            yield importlib.import_module(name.removesuffix(".__init__"))


def examples():
    """A `DocTest` for each docstring, by its dotted name in the package."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules() for test in finder.find(module) if test.examples]
    return {test.name.removeprefix(f"{PACKAGE.name}."): test for test in found}


def public_docstrings():
    return set(public_docstrings_by_name().values())


def public_docstrings_by_name():
    docs = {owner.__qualname__: owner.__doc__ for owner in owners()}
    docs |= {name: member.value.__doc__ for name, member in members().items()}
    return {name: doc for name, doc in docs.items() if doc}


EXAMPLES = examples()
# Those of internal functions stay right for who reads them, which users do not.
NAMES = [
    pytest.param(name, marks=[] if test.docstring in public_docstrings() else pytest.mark.slow)
    for name, test in EXAMPLES.items()
]


@pytest.fixture(scope="module", autouse=True)
def _collecting_garbage_is_quick():
    """Each example leaves models behind: what was there before is not looked through again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _settings_stay_as_they_were():
    """Caches of compiled programs and meshes of devices are settings of the whole process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    if keras.config.backend() == "jax":
        import jax

        keras.distribution.set_distribution(None)
        jax.config.update("jax_compilation_cache_dir", before.get("JAX_COMPILATION_CACHE_DIR"))


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path):
    backend = OF_ONE_BACKEND.get(name, keras.config.backend())
    if backend != keras.config.backend():
        pytest.skip(f"shows what {backend} does")
    offered = {"keras": keras, "keras_t5gemma2": keras_t5gemma2, "np": np}
    offered["directory"] = tmp_path.resolve()
    # Readers of a public docstring have none of the names of its module.
    test = EXAMPLES[name]
    test.globs = offered if test.docstring in public_docstrings() else {**test.globs, **offered}
    lines = []
    doctest.DocTestRunner(verbose=False).run(test, out=lines.append, clear_globs=True)
    assert not lines, "".join(lines)


def test_examples_are_found():
    assert len(EXAMPLES) > 150
    found = {test.docstring for test in EXAMPLES.values()}
    assert [doc for doc in public_docstrings() if ">>>" in doc and doc not in found] == []


def test_every_public_name_has_an_example():
    missing = [owner.__qualname__ for owner in owners() if ">>>" not in (owner.__doc__ or "")]
    missing += [name for name, member in members().items() if not has_example(member)]
    assert missing == []


def test_has_example():
    class Example(keras_t5gemma2.T5Gemma2Tokenizer):
        """An example.

        >>> Example().shown
        """

        @property
        def shown(self): ...

        @property
        def hidden(self): ...

        def method(self): ...

        def tokenize(self): ...

    names = ("shown", "hidden", "method", "tokenize")
    found = [has_example(Member(Example, name, vars(Example)[name])) for name in names]
    assert found == [True, False, False, True]


def test_few_examples_are_not_run():
    names = [name for name, doc in public_docstrings_by_name().items() if "+SKIP" in doc]
    assert sorted(names) == sorted(NOT_RUN)
    others = [name for name, test in EXAMPLES.items() if "+SKIP" in test.docstring]
    assert len(others) == len(NOT_RUN)


def has_example(member):
    """Whether a member has one of its own or of what it overrides, or its class's shows it."""
    owner, name, value = member
    if name in OF_KERAS or name.startswith("__"):
        return True
    bases = [base for base in owner.__mro__ if is_ours(base) or base is owner]
    docs = [vars(base)[name].__doc__ for base in bases if name in vars(base)]
    if ">>>" in next(filter(None, docs), ""):
        return True
    of_class = (owner.__doc__ or "").partition(">>>")[2]
    return isinstance(value, property) and f".{name}" in of_class
