"""What weights derive from, through training and every file."""

import json

import keras
import keras_hub
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import Distillation, T5Gemma2Backbone, T5Gemma2Seq2SeqLM, TeacherSamples
from keras_t5gemma2.checkpoints.cards import GEMMA_NOTICE
from keras_t5gemma2.checkpoints.sources import source_of

pytestmark = pytest.mark.once


def gemma_task():
    lm = small_task()
    lm.backbone.source = "google/t5gemma-2-270m-270m"
    return lm


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


@pytest.mark.slow
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
    assert (tmp_path / "own" / "NOTICE").read_text() == f"{GEMMA_NOTICE}\n"
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
