"""The package as a whole: its names, its registration, its needs."""

import ast
import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import keras_hub
import numpy as np
import pytest
from repository import environment
from tasks import tiny_task
from tiny_models import token_inputs

import keras_t5gemma2

PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent


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


def test_every_function_has_a_statement():
    """Of one with a docstring alone TensorFlow says that it cannot transform it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in _that_run(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert len(node.body) > 1 or not _is_text(node.body[0]), f"{path}: {node.name}"


def _that_run(tree):
    """All nodes but those inside of protocols, whose methods are never called."""
    for node in ast.iter_child_nodes(tree):
        bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
        if "Protocol" not in bases:
            yield node
            yield from _that_run(node)


def _is_text(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


_IMPORT = """
import sys
import zipfile
import keras, keras_hub
before = set(sys.modules)
import keras_t5gemma2
new = {name.split(".")[0] for name in set(sys.modules) - before}
print("new:", *sorted(new - sys.stdlib_module_names))
"""


# Without TensorFlow the next test asks the same.
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="where nothing is left out")
@pytest.mark.once
def test_importing_the_package_loads_nothing_beyond_keras_and_keras_hub():
    assert _run(_IMPORT, keras.config.backend()).strip() == "new: keras_t5gemma2"


_WITHOUT_TENSORFLOW = """
import sys
import zipfile
for name in ("tensorflow", "tensorflow_text", "grain"):
    sys.modules[name] = None  # importing it fails
_IMPORT
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
""".replace("_IMPORT", _IMPORT)


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="the backend itself needs it")
@pytest.mark.once
def test_generate_and_fit_where_importing_tensorflow_fails():
    output = _run(_WITHOUT_TENSORFLOW, keras.config.backend())
    assert "done without ['tensorflow'" in output
    assert "new: keras_t5gemma2" in output.splitlines()


_REPRODUCE = """
import sys
import zipfile
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
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(KERAS_BACKEND=backend),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.once
def test_presets_are_the_same_plain_dict_everywhere():
    for name in ("Seq2SeqLM", "Backbone", "Tokenizer", "ImageConverter", "Seq2SeqLMPreprocessor"):
        cls = getattr(keras_t5gemma2, f"T5Gemma2{name}")
        assert cls.presets is keras_t5gemma2.presets
    assert json.loads(json.dumps(keras_t5gemma2.presets)) == keras_t5gemma2.presets


@pytest.mark.once
def test_the_wheel_is_small(tmp_path):
    """At most 5 MB, the embedded preset included: of each file as much as a wheel holds of it."""
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for folder in (PACKAGE, PACKAGE.parent / "t5gemma2_cli"):
            for found in folder.rglob("*"):
                if found.is_file() and "__pycache__" not in found.parts:
                    file.write(found, found.relative_to(PACKAGE.parent))
    assert 1e6 < path.stat().st_size < 5e6


@pytest.mark.once
def test_files_of_more_than_300_lines_say_why():
    texts = {str(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    long = [path for path, text in texts.items() if text.count("\n") > 300]
    assert long
    assert [path for path in long if "Long" not in texts[path].partition("\n")[0]] == []
