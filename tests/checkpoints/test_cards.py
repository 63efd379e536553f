"""What goes with weights that are shared: where they come from, how to load them, their terms."""

import json
import os
import pathlib
import subprocess
import sys

import huggingface_hub
import keras
import keras_hub
import numpy as np
import pytest
import transformers
from huggingface_hub import errors
from safetensors import safe_open
from tasks import SMALL_ROWS, small_task

import keras_t5gemma2
from keras_t5gemma2 import (
    Distillation,
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    TeacherSamples,
)
from keras_t5gemma2.checkpoints.cards import GEMMA_NOTICE, is_as_written
from keras_t5gemma2.checkpoints.sources import source_of

pytestmark = pytest.mark.once
SENTENCE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)


def gemma_task():
    lm = small_task()
    lm.backbone.source = "google/t5gemma-2-270m-270m"
    return lm


def front_matter(text):
    start, lines, _ = text.split("---\n", 2)
    assert start == ""
    pairs = [line.partition(": ") for line in lines.splitlines() if ": " in line]
    tags = [line.removeprefix("- ") for line in lines.splitlines() if line.startswith("- ")]
    return {key: value for key, _, value in pairs} | {"tags": tags}


def code(text):
    return text.split("```python\n")[1].split("```")[0]


# READMEs and notices


def test_a_preset_of_gemma_says_where_it_comes_from_and_its_terms(tmp_path):
    lm = gemma_task()
    lm.fit(SMALL_ROWS, epochs=2, verbose=0)
    lm.save_to_preset(tmp_path / "french")
    text = (tmp_path / "french" / "README.md").read_text()
    about = front_matter(text)
    assert about["base_model"] == "google/t5gemma-2-270m-270m"
    assert (about["license"], about["library_name"]) == ("gemma", "keras_t5gemma2")
    assert {"t5gemma2", "keras"} <= set(about["tags"])
    assert f"| loss | {lm.history.history['loss'][-1]:.4g} |" in text
    assert (tmp_path / "french" / "NOTICE").read_text() == f"{SENTENCE}\n" == f"{GEMMA_NOTICE}\n"
    assert SENTENCE in text and "ai.google.dev/gemma/prohibited_use_policy" in text
    assert str(tmp_path) not in text
    scope = {}
    exec(code(text).replace('"french"', repr(str(tmp_path / "french"))), scope)
    assert scope["lm"].backbone.source == "google/t5gemma-2-270m-270m"


def test_what_does_not_derive_from_gemma_has_no_notice(tmp_path):
    small_task().save_to_preset(tmp_path / "random")
    T5Gemma2Backbone.from_preset("t5gemma2_tiny").save_to_preset(tmp_path / "tiny")
    assert not list(tmp_path.rglob("NOTICE"))
    random = (tmp_path / "random" / "README.md").read_text()
    assert front_matter(random)["license"] == "unknown" and "base_model" not in random
    tiny = (tmp_path / "tiny" / "README.md").read_text()
    about = front_matter(tiny)
    assert (about["base_model"], about["license"]) == ("t5gemma2_tiny", "apache-2.0")
    assert "Gemma Terms" not in tiny + random
    assert 'keras_t5gemma2.T5Gemma2Backbone.from_preset("tiny")' in tiny


def test_every_format_says_it(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.backbone.source = "google/gemma-3-270m"
    lm.export_to_transformers(tmp_path / "hf")
    lm.save_to_keras_hub_preset(tmp_path / "hub")
    lm.backbone.save_to_keras_hub_preset(tmp_path / "hub_backbone")
    lm.backbone.export_to_transformers(tmp_path / "hf_backbone")
    lm.enable_lora(2, target=["query"])
    lm.save_adapter(tmp_path / "french.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    lm.export_to_transformers(tmp_path / "with_peft", adapters="peft")
    lm.save_to_preset(tmp_path / "own")
    libraries = {
        "hf": "transformers",
        "hf_backbone": "transformers",
        "hub": "keras-hub",
        "hub_backbone": "keras-hub",
        "peft": "peft",
        "with_peft": "transformers",
        "with_peft/adapters/default": "peft",
        "own": "keras_t5gemma2",
    }
    for directory, library in libraries.items():
        text = (tmp_path / directory / "README.md").read_text()
        about = front_matter(text)
        assert (about["library_name"], about["license"]) == (library, "gemma")
        assert about["base_model"] == "google/gemma-3-270m" and is_as_written(text)
        assert (tmp_path / directory / "NOTICE").read_text() == f"{SENTENCE}\n"
    # Beside a single file, and in it.
    text = (tmp_path / "french.md").read_text()
    assert SENTENCE in text and 'lm.load_adapter("french.safetensors")' in text
    assert front_matter(text)["base_model"] == "google/gemma-3-270m"
    with safe_open(tmp_path / "french.safetensors", "numpy") as file:
        assert file.metadata()["notice"] == SENTENCE
    assert not list((tmp_path / "own" / "adapters").glob("*.md"))
    for directory in ("hf", "hub", "own", "with_peft"):
        assert source_of(tmp_path / directory, tmp_path / directory) == "google/gemma-3-270m"


def test_an_edited_readme_and_a_notice_of_the_user_stay(tmp_path):
    lm = gemma_task()
    lm.save_to_preset(tmp_path)
    lm.save_to_preset(tmp_path)  # as it was written: written anew, without a word
    readme, notice = tmp_path / "README.md", tmp_path / "NOTICE"
    edited = readme.read_text().replace("T5Gemma 2 model", "model of mine")
    readme.write_text(edited)
    notice.write_text("Mine.\n")
    with pytest.warns(UserWarning, match=r"README.md has been edited.*stays as it is") as caught:
        lm.save_to_preset(tmp_path)
    assert len([w for w in caught if "README" in str(w.message)]) == 1
    assert readme.read_text() == edited
    assert notice.read_text() == f"Mine.\n\n{SENTENCE}\n"
    with pytest.warns(UserWarning, match="has been edited"):
        lm.save_to_preset(tmp_path)
    assert notice.read_text() == f"Mine.\n\n{SENTENCE}\n"
    lm.enable_lora(2, target=["query"])
    (tmp_path / "a.md").write_text("My notes")
    with pytest.warns(UserWarning, match=r"a\.md has been edited"):
        lm.save_adapter(tmp_path / "a.safetensors")
    assert (tmp_path / "a.md").read_text() == "My notes"


# Where weights come from


def test_the_source_goes_through_fit_and_every_file(tmp_path):
    lm = gemma_task()
    lm.fit(SMALL_ROWS, verbose=0)
    lm.save_to_preset(tmp_path / "own")
    lm.save(tmp_path / "x.keras")
    for found in (
        T5Gemma2Seq2SeqLM.from_preset(tmp_path / "own"),
        keras.saving.load_model(tmp_path / "x.keras"),
        keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path / "own")),
    ):
        assert found.backbone.source == "google/t5gemma-2-270m-270m"
    assert T5Gemma2Backbone.from_preset(tmp_path / "own", load_weights=False).source is None
    small_task().save_to_preset(tmp_path / "random")
    assert T5Gemma2Seq2SeqLM.from_preset(tmp_path / "random").backbone.source is None


def test_a_student_of_gemma_derives_from_it(tmp_path):
    teacher, student = gemma_task(), small_task()
    student.fit(SMALL_ROWS, distillation=Distillation(teacher, num_samples=3), verbose=0)
    assert student.backbone.source == "google/t5gemma-2-270m-270m"
    teacher.sample_logits(SMALL_ROWS, num_samples=3).save(tmp_path / "samples.npz")
    student = small_task()
    samples = TeacherSamples.load(tmp_path / "samples.npz")
    student.fit(SMALL_ROWS, distillation=Distillation(samples), verbose=0)
    assert student.backbone.source == "google/t5gemma-2-270m-270m"
    other = small_task(seed=1)
    other.fit(SMALL_ROWS, distillation=Distillation(small_task(), num_samples=3), verbose=0)
    assert other.backbone.source is None


def test_files_that_do_not_say_their_source_are_taken_for_gemma(tmp_path):
    T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").export_to_transformers(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    assert T5Gemma2Backbone.from_preset(tmp_path / "hf").source == "t5gemma2_tiny"
    values = json.loads(path.read_text())
    del values["keras_t5gemma2_source"]
    path.write_text(json.dumps(values))
    backbone = T5Gemma2Backbone.from_preset(tmp_path / "hf")
    assert backbone.source == "unknown"
    backbone.save_to_preset(tmp_path / "own")
    assert (tmp_path / "own" / "NOTICE").read_text() == f"{SENTENCE}\n"
    readme = (tmp_path / "own" / "README.md").read_text()
    assert "is not recorded" in readme and "base_model" not in readme
    path.write_text(json.dumps({**values, "_name_or_path": "google/t5gemma-2-1b-1b"}))
    assert source_of(tmp_path / "hf", tmp_path / "hf") == "google/t5gemma-2-1b-1b"
    for hostile in ("a\nlicense: mit", ["x"], "x" * 300, 5):
        path.write_text(json.dumps({**values, "keras_t5gemma2_source": hostile}))
        assert source_of(tmp_path / "hf", tmp_path / "hf") == "unknown"
    path.write_text(json.dumps(values))
    handle = "kaggle://keras/t5gemma-2/keras/t5gemma2_1b_1b/2"
    names = {"t5gemma2_4b_4b": "4b-4b", "hf://google/t5gemma-2-4b-4b": "4b-4b", handle: "1b-1b"}
    for name, size in names.items():
        assert source_of(name, tmp_path / "hf") == f"google/t5gemma-2-{size}"


# The hub


class _Hub:
    """As much of the hub as an upload needs."""

    def __init__(self, monkeypatch, readme=None, refuses=None):
        self.calls, self.files, self.readme, self.refuses = [], {}, readme, refuses
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self._download)

    def create_repo(self, **arguments):
        if self.refuses is not None:
            raise errors.HfHubHTTPError("no", response=self.refuses)
        self.calls.append(arguments)

    def upload_folder(self, folder_path, **arguments):
        self.calls.append(arguments)
        paths = [path for path in pathlib.Path(folder_path).rglob("*") if path.is_file()]
        self.files = {str(path.relative_to(folder_path)): path.read_bytes() for path in paths}
        return "commit"

    def _download(self, repository, name):
        if self.readme is None:
            raise errors.LocalEntryNotFoundError("nothing there")
        return self.readme


def test_a_task_is_uploaded(monkeypatch):
    hub = _Hub(monkeypatch)
    lm = gemma_task()
    lm.enable_lora(2, target=["query"], name="french")
    assert lm.push_to_hub("me/french", private=True, commit_message="First") == "commit"
    create, upload = hub.calls
    assert create == {"repo_id": "me/french", "private": True, "exist_ok": True}
    assert (upload["repo_id"], upload["commit_message"]) == ("me/french", "First")
    assert upload["ignore_patterns"] == []
    assert "model*.weights.h5" in upload["delete_patterns"]
    needed = {"config.json", "task.json", "model.weights.h5", "adapters/french.safetensors"}
    assert needed | {"README.md", "NOTICE", "tokenizer.json"} <= set(hub.files)
    assert 'from_preset("hf://me/french")' in hub.files["README.md"].decode()
    assert hub.files["NOTICE"].decode() == f"{SENTENCE}\n"


def test_a_readme_that_was_edited_on_the_hub_stays(monkeypatch, tmp_path):
    (tmp_path / "README.md").write_text("# My model")
    hub = _Hub(monkeypatch, readme=str(tmp_path / "README.md"))
    with pytest.warns(UserWarning, match="README.md of hf://me/french has been edited"):
        small_task().push_to_hub("me/french")
    assert hub.calls[-1]["ignore_patterns"] == ["README.md"]


def test_what_the_hub_refuses(monkeypatch):
    class Response:
        status_code, headers, request, text = 401, {}, None, ""

    _Hub(monkeypatch, refuses=Response())
    lm = small_task()
    with pytest.raises(PermissionError, match=r"hf://me/x cannot be written. Log in by `hf auth"):
        lm.push_to_hub("me/x")
    Response.status_code = 503
    with pytest.raises(ConnectionError, match="The hub said: 'no"):
        lm.push_to_hub("me/x")
    for name in ("hf://me/x", "a/b/c", "x" * 200, 5):
        with pytest.raises(ValueError, match="`repo_id` must have the form organization/name"):
            lm.push_to_hub(name)


# keras-hub's own ways


_WITHOUT_IMPORT = """
import sys
import keras_hub
for cls in (keras_hub.models.Seq2SeqLM, keras_hub.models.Backbone, keras_hub.models.Tokenizer):
    try:
        cls.from_preset(sys.argv[1])
    except ValueError as error:
        assert "import keras_t5gemma2>T5Gemma2Backbone" in str(error), error
    else:
        raise AssertionError(cls)
import keras_t5gemma2
lm = keras_hub.models.Seq2SeqLM.from_preset(sys.argv[1])
assert type(lm) is keras_t5gemma2.T5Gemma2Seq2SeqLM
"""


@pytest.mark.once
def test_keras_hub_says_what_to_import(tmp_path):
    small_task().save_to_preset(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _WITHOUT_IMPORT, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_metadata_names_the_task_of_keras_hub(tmp_path):
    small_task().save_to_preset(tmp_path)
    embedded = pathlib.Path(keras_t5gemma2.presets["t5gemma2_tiny"]["directory"])
    for directory in (tmp_path, embedded):
        assert json.loads((directory / "metadata.json").read_text())["tasks"] == ["Seq2SeqLM"]


class Derived(T5Gemma2Seq2SeqLM):
    """Once a user has registered it, keras-hub may take it for any preset of the backbone."""


def test_adapters_are_never_lost(tmp_path, monkeypatch):
    lm = small_task()
    lm.enable_lora(2, target=["query"], name="french")
    lm.save_to_preset(tmp_path)
    for found in (T5Gemma2Seq2SeqLM.from_preset(tmp_path), Derived.from_preset(tmp_path)):
        assert list(found.adapters) == ["french"]
    assert T5Gemma2Backbone.from_preset(tmp_path) is not None
    message = r"the adapters french in files of their own.*T5Gemma2Seq2SeqLM.from_preset"
    loader = keras_hub.models.Seq2SeqLM.from_preset
    others = set(keras.saving.get_custom_objects().values()) - {T5Gemma2Seq2SeqLM}
    for cls in (Derived, T5Gemma2Seq2SeqLM):
        # Whichever of the classes keras-hub finds first.
        objects = {"a": cls, **{str(i): other for i, other in enumerate(others - {cls})}}
        with monkeypatch.context() as patch:
            named = {keras.saving.get_registered_name(x): x for x in [*others, T5Gemma2Seq2SeqLM]}
            patch.setattr(keras.saving, "get_custom_objects", lambda objects=objects: objects)
            patch.setattr(keras.saving, "get_registered_object", _finder(named))
            with pytest.raises((ValueError, TypeError), match=message):
                loader(str(tmp_path))
    with pytest.raises((ValueError, TypeError), match=message):
        keras_hub.models.Backbone.from_preset(str(tmp_path))


def _finder(named):
    return lambda name, *args: named.get(name.removeprefix("import "))


def test_options_that_keras_hub_does_not_know_are_refused(tmp_path):
    small_task().save_to_preset(tmp_path)
    for options in ({"text_only": True}, {"quantize": "int8"}, {"embeddings": "mean"}):
        message = f"no argument `{next(iter(options))}`, which is one of"
        with pytest.raises(TypeError, match=message):
            keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path), **options)
        with pytest.raises(TypeError, match=message):
            keras_hub.models.Backbone.from_preset(str(tmp_path), **options)


def test_presets_are_the_same_plain_dict_everywhere():
    parts = (T5Gemma2Tokenizer, T5Gemma2ImageConverter, T5Gemma2Seq2SeqLMPreprocessor)
    for cls in (T5Gemma2Seq2SeqLM, T5Gemma2Backbone, *parts):
        assert cls.presets is keras_t5gemma2.presets
    assert json.loads(json.dumps(keras_t5gemma2.presets)) == keras_t5gemma2.presets


def test_a_backbone_and_a_tokenizer_are_exported(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.backbone.export_to_transformers(tmp_path, dtype="float32")
    lm.preprocessor.tokenizer.export_to_transformers(tmp_path)
    again = T5Gemma2Backbone.from_preset(tmp_path)
    for one, other in zip(lm.backbone.weights, again.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        )
    text = "Spell 4268 in German."
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    want = lm.preprocessor.tokenizer(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == want
    assert T5Gemma2Tokenizer.from_preset(tmp_path)(text) == want
