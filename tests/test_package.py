"""The package as a whole: its names, its registration, its layers of imports, its needs."""

import ast
import os
import pathlib
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from tasks import tiny_task
from tiny_models import token_inputs

import keras_t5gemma2

PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent
TESTS = pathlib.Path(__file__).parent

# A file imports only from files above it, so that this is also the order to read them in.
ORDER = [
    *("messages", "compiling", "disk", "options", "arguments", "config", "registry"),
    *("kernels.scaled", "kernels.reference", "kernels.blocked", "kernels.forks"),
    *("kernels.torch_flash", "kernels.torch_flex", "kernels.jax_cudnn", "kernels.torch_processes"),
    *("kernels.processes", "sharding", "kernels.jax", "kernels.tensorflow", "kernels.torch"),
    *("kernels.attention", "kernels"),
    *("distribution", "cache", "plain_call", "layer_config", "quantization", "lora", "layers"),
    *("recompute", "stacks", "quantization.calibration", "vision", "saving"),
    *("trainer_state", "backbone"),
    *("preprocessing", "tasks", "checkpoints", "planning"),
    *("text_metrics", "evaluation_run", "evaluation"),
]


def test_public_names():
    for name in keras_t5gemma2.__all__:
        assert getattr(keras_t5gemma2, name) is not None
    published = keras_t5gemma2.presets["t5gemma2_270m_270m"]
    assert published["hf_handle"] == "hf://google/t5gemma-2-270m-270m"
    assert published["metadata"]["params"] == 786_029_296
    assert keras_t5gemma2.T5Gemma2Seq2SeqLM.presets is keras_t5gemma2.presets


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("T5Gemma2Backbone", keras_hub.models.Backbone),
        ("T5Gemma2Seq2SeqLM", keras_hub.models.Seq2SeqLM),
        ("T5Gemma2Seq2SeqLMPreprocessor", keras_hub.models.Seq2SeqLMPreprocessor),
        ("T5Gemma2Tokenizer", keras_hub.models.Tokenizer),
        ("T5Gemma2ImageConverter", keras_hub.layers.ImageConverter),
    ],
)
def test_classes_are_registered_beside_those_of_keras_hub(name, base):
    ours = getattr(keras_t5gemma2, name)
    assert issubclass(ours, base)
    assert keras.saving.get_registered_name(ours) == f"keras_t5gemma2>{name}"
    theirs = keras.saving.get_registered_object(f"keras_hub>{name}")
    assert theirs is not None and theirs is not ours


def test_files_import_only_from_files_above_them():
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for imported in _imports_at_the_top(path):
            if module == "__init__" or not imported.startswith("keras_t5gemma2."):
                continue
            here, there = (_rank(name) for name in (module, imported.split(".", 1)[1]))
            assert there <= here, f"{module} imports {imported}"


def test_backends_are_imported_in_kernels_only():
    """But for `traced`, which runs inside a `tf.data` pipeline that somebody else built."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "kernels" or path.name == "traced.py":
            continue
        tree = ast.parse(path.read_text())
        roots = {name.split(".")[0] for node in ast.walk(tree) for name in _names(node)}
        assert not roots & {"jax", "torch", "tensorflow"}, path


def test_every_function_has_a_statement():
    """Of one with a docstring alone TensorFlow says that it cannot transform it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert len(node.body) > 1 or not _is_text(node.body[0]), f"{path}: {node.name}"


def _is_text(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_nothing_heavy_is_imported_with_the_package():
    """Hubs, plots and the reference come when they are needed: importing stays quick.

    Keras and keras-hub themselves import Pillow, whose plugins wait for the first image that is
    opened, and `tokenizers`.
    """
    light = {"PIL", "keras", "keras_hub", "keras_t5gemma2", "ml_dtypes", "numpy", "tokenizers"}
    for path in _files_of_the_import():
        allowed = light | sys.stdlib_module_names
        if path.parent.name == "kernels":
            allowed = allowed | {"jax", "torch", "tensorflow"}
        roots = {name.split(".")[0] for name in _imports_at_the_top(path)}
        assert roots <= allowed, path


def _files_of_the_import():
    """The files that `import keras_t5gemma2` reads."""
    found, waiting = set(), [PACKAGE / "__init__.py"]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for name in _imports_at_the_top(path):
            if name.split(".")[0] == PACKAGE.name:
                stem = PACKAGE.joinpath(*name.split(".")[1:])
                files = {stem.with_suffix(".py"), stem / "__init__.py"}
                waiting += [file for file in files if file.is_file() and file not in found]
    return sorted(found)


_IMPORT = """
import sys
import keras, keras_hub
before = set(sys.modules)
import keras_t5gemma2
new = {name.split(".")[0] for name in set(sys.modules) - before}
print("new:", *sorted(new - sys.stdlib_module_names))
"""


@pytest.mark.once
def test_importing_the_package_loads_nothing_beyond_keras_and_keras_hub():
    assert _run(_IMPORT, keras.config.backend()).strip() == "new: keras_t5gemma2"


def _imports_at_the_top(path):
    return [name for node in ast.parse(path.read_text()).body for name in _names(node)]


def _names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        # A module of a package is no import of what the package itself says.
        are_modules = [(PACKAGE.parent / f"{n.replace('.', '/')}.py").exists() for n in names]
        return names if all(are_modules) else [*names, node.module]
    return []


def _rank(module):
    module = module.removesuffix(".__init__")
    found = [i for i, part in enumerate(ORDER) if f"{module}.".startswith(f"{part}.")]
    return max(found, key=lambda i: len(ORDER[i])) if found else -1


_WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_text", "grain"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from preprocessors import random_image
from tasks import tiny_task
lm = tiny_task()
rows = {
    "encoder_text": ["the cat", "<start_of_image> is"],
    "images": [None, random_image()],
    "decoder_text": ["a dog", "yes"],
}
history = lm.fit(rows, batch_size=2, verbose=0).history
assert np.isfinite(history["loss"][0])
text = lm.generate(rows, max_new_tokens=4)
assert len(text) == 2 and text[0].startswith("a dog")
assert lm.generate("the cat", max_new_tokens=4) is not None
print("done without", [name for name, module in sys.modules.items() if module is None])
"""


@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="the backend itself needs it")
@pytest.mark.once
def test_generate_and_fit_where_importing_tensorflow_fails():
    output = _run(_WITHOUT_TENSORFLOW, keras.config.backend())
    assert "done without ['tensorflow'" in output


_REPRODUCE = """
import sys
import numpy as np
import keras_hub, keras_t5gemma2
directory = sys.argv[1]
lm = keras_hub.models.Seq2SeqLM.from_preset(directory)
assert type(lm) is keras_t5gemma2.T5Gemma2Seq2SeqLM
inputs = dict(np.load(directory + "/inputs.npz"))
want = np.load(directory + "/logits.npy")
lm.preprocessor = None
got = np.asarray(lm.predict_on_batch(lm.backbone.complete(inputs)))
np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
print("reproduced")
"""


@pytest.mark.once
@pytest.mark.slow
def test_a_preset_gives_the_same_output_on_another_backend(tmp_path, rng):
    """Each backend's preset on the next one: all three are tried, one by one, by the test runs."""
    backends = ["jax", "tensorflow", "torch"]
    other = backends[(backends.index(keras.config.backend()) + 1) % 3]
    lm = tiny_task()
    lm.save_to_preset(tmp_path)
    inputs = token_inputs(rng, (13, 8), (3, 9), images=1)
    np.savez(tmp_path / "inputs.npz", **inputs)
    lm.preprocessor = None
    np.save(tmp_path / "logits.npy", lm.predict_on_batch(lm.backbone.complete(inputs)))
    assert "reproduced" in _run(_REPRODUCE, other, str(tmp_path))


def _run(code, backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(TESTS)}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
