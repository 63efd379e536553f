"""Models merged from their files, one of them in memory."""

import json
import shutil

import h5py
import numpy as np
import pytest
from keras import ops
from tasks import small_task
from tiny_vocabulary import tiny_tokenizer_data

from keras_t5gemma2 import (
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    merge_models,
)
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.merging import slerp

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    directory = tmp_path_factory.mktemp("presets")
    for seed in range(3):
        small_task(seed=seed).save_to_preset(directory / str(seed))
    return [directory / str(seed) for seed in range(3)]


def weights_of(lm):
    return {w.path: np.array(ops.convert_to_numpy(w)) for w in lm.backbone.weights}


def test_each_weight_is_the_mean_and_is_saved(presets, tmp_path):
    merged = merge_models(presets[:2], tmp_path / "merged", weights=[1, 3])
    one, two = (weights_of(T5Gemma2Seq2SeqLM.from_preset(path)) for path in presets[:2])
    saved = weights_of(T5Gemma2Seq2SeqLM.from_preset(tmp_path / "merged"))
    differs = 0
    for path, value in weights_of(merged).items():
        np.testing.assert_allclose(value, 0.25 * one[path] + 0.75 * two[path], atol=1e-6)
        np.testing.assert_array_equal(value, saved[path])
        differs += (one[path] != two[path]).any()
    assert differs > 5


def test_arcs_from_a_base(presets):
    merged = weights_of(merge_models(presets[:2], method="slerp", base=presets[2]))
    one, two, base = (weights_of(T5Gemma2Seq2SeqLM.from_preset(path)) for path in presets)
    for path, value in merged.items():
        values = [x.astype("float64") for x in (one[path], two[path])]
        want = slerp(values, [0.5, 0.5], base[path].astype("float64"))
        np.testing.assert_allclose(value, want, atol=1e-6)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_one_model_twice_is_what_it_has_learned(presets, method):
    found = merge_models(
        [presets[0]] * 2, method=method, base=presets[1], weights=[0.5, 0.5], density=1.0
    )
    want = weights_of(T5Gemma2Seq2SeqLM.from_preset(presets[0]))
    for path, value in weights_of(found).items():
        np.testing.assert_allclose(value, want[path], atol=1e-6)


def test_one_model_is_in_memory(presets, monkeypatch):
    built, build = [], T5Gemma2Backbone._build
    monkeypatch.setattr(
        T5Gemma2Backbone, "_build", lambda self, *a: built.append(1) or build(self, *a)
    )
    merge_models(presets)
    assert len(built) == 1


def test_directories_of_the_reference_are_read_too(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.export_to_transformers(tmp_path / "reference")
    lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "reference")
    lm.save_to_preset(tmp_path / "same")
    models = [tmp_path / "reference", tmp_path / "same"]
    found = weights_of(merge_models(models, method="slerp"))
    for path, value in weights_of(lm).items():
        np.testing.assert_allclose(found[path], value, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"method": "mean"}, ValueError, r"`method` must be one of \('linear', 'slerp'"),
        ({"method": "ties"}, ValueError, r"needs `base`, the model that the others"),
        ({"weights": [1.0]}, ValueError, r"a finite number for each of 2 models"),
        ({"weights": 0.5}, ValueError, r"`weights` must be a list of .*=0.5"),
        ({"weights": {0: 1, 1: 2}}, ValueError, r"`weights` must be a list of .*={0: 1, 1: 2}"),
        ({"weights": [10**400, 1]}, ValueError, r"a list of a finite number for each"),
        ({"method": ["linear"]}, ValueError, r"`method` must be one of .*=\['linear'\]"),
        ({"task": None}, TypeError, r"`task` must be the class of a task, .*task=None"),
        ({"task": "T5Gemma2Seq2SeqLM"}, TypeError, r"`task` must be .*task='T5Gemma2Seq2SeqLM'"),
        ({"weights": [1.0, -1.0]}, ValueError, r"`weights` must be at least 0"),
        ({"density": 0}, ValueError, r"`density` must be above 0 and at most 1"),
        ({"base": "x"}, ValueError, r"`base` changes nothing of `method=\"linear\"`"),
    ],
)
def test_arguments_are_checked(presets, arguments, kind, message):
    with pytest.raises(kind, match=message):
        merge_models(presets[:2], **arguments)


def test_what_is_no_list_of_models_is_refused(presets):
    with pytest.raises(TypeError, match=r"`models` must be a list of presets"):
        merge_models("t5gemma2_tiny")
    with pytest.raises(ValueError, match=r"at least two presets"):
        merge_models(presets[:1])


def test_models_that_do_not_fit_together_are_refused(presets, tmp_path):
    with pytest.raises(ValueError, match=r"one config. Received: model 1, .* vocabulary_size"):
        merge_models([presets[0], "t5gemma2_tiny"])
    T5Gemma2Seq2SeqLM.from_preset(presets[0], rope_factor=4).save_to_preset(tmp_path / "longer")
    place = r"whose encoder.layers.0.rope_factor is 4, and not 8.0 as in"
    with pytest.raises(ValueError, match=place):
        merge_models([presets[0], tmp_path / "longer"])
    with pytest.raises(TypeError, match=r"`path` must be that of a directory. Received: path=5"):
        merge_models(presets[:2], path=5)
    lm = small_task()
    lm.backbone.enable_lora(rank=2)
    lm.save_to_preset(tmp_path / "adapted")
    with pytest.raises(ValueError, match=r"Model 1 must have no adapters beside its weights"):
        merge_models([presets[0], tmp_path / "adapted"])
    lm = small_task()
    lm.quantize("int8")
    lm.save_to_preset(tmp_path / "quantized")
    with pytest.raises(ValueError, match=r"Model 0 must have weights of floats"):
        merge_models([tmp_path / "quantized", presets[0]])


def test_models_of_another_vocabulary_are_refused(presets, tmp_path):
    """Their tables have one shape, and a row of them another meaning."""
    data = json.loads(tiny_tokenizer_data())
    ids = data["model"]["vocab"]
    ids["."], ids[","] = ids[","], ids["."]
    lm = small_task()
    tokenizer = T5Gemma2Tokenizer(json.dumps(data).encode())
    lm.preprocessor = T5Gemma2Seq2SeqLMPreprocessor(tokenizer)
    lm.save_to_preset(tmp_path / "other")
    with pytest.raises(ValueError, match=r"one vocabulary. Received: model 1, .* whose token \d+"):
        merge_models([presets[0], tmp_path / "other"])
    with pytest.raises(ValueError, match=r"Received: model base, .* is ',', and not '\.'"):
        merge_models(presets[:2], method="ties", base=tmp_path / "other")


def test_vocabularies_are_compared_where_the_first_model_has_none(presets, tmp_path):
    lm = small_task()
    lm.backbone.save_to_preset(tmp_path / "without")
    data = json.loads(tiny_tokenizer_data())
    ids = data["model"]["vocab"]
    ids["."], ids[","] = ids[","], ids["."]
    lm.preprocessor = T5Gemma2Seq2SeqLMPreprocessor(T5Gemma2Tokenizer(json.dumps(data).encode()))
    lm.save_to_preset(tmp_path / "other")
    with pytest.raises(ValueError, match=r"one vocabulary. Received: model 2, "):
        merge_models([tmp_path / "without", presets[0], tmp_path / "other"])


def test_weights_of_any_size_are_shares(presets):
    halves = weights_of(merge_models(presets[:2]))
    for path, value in weights_of(merge_models(presets[:2], weights=[1e308, 1e308])).items():
        np.testing.assert_array_equal(halves[path], value)
    with pytest.raises(ValueError, match=r"float32 holds what is merged.*weights=\[1e\+300"):
        merge_models(presets[:2], method="task_arithmetic", base=presets[2], weights=[1e300, 1])


def test_presets_of_keras_hub_are_read_too(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.save_to_keras_hub_preset(tmp_path / "hub")
    found = weights_of(merge_models(["t5gemma2_tiny", tmp_path / "hub"]))
    for path, value in weights_of(lm).items():
        np.testing.assert_allclose(found[path], value, atol=1e-6)


def test_a_weight_that_a_model_lacks_is_an_error(presets, tmp_path):
    shutil.copytree(presets[0], tmp_path / "short")
    path = next((tmp_path / "short").glob("*.weights.h5"))
    with h5py.File(path, "a") as file:
        del file["layers/encoder/norm/vars/0"]
    for models in ([tmp_path / "short", presets[1]], [presets[1], tmp_path / "short"]):
        with pytest.raises(ValueError, match=r"Missing \(1\): layers/encoder/norm/vars/0"):
            merge_models(models, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_made_of_gemma_derives_from_it(tmp_path):
    models = [tmp_path / "random", tmp_path / "of_gemma"]
    for path, source in zip(models, (None, "google/gemma-3-270m"), strict=True):
        lm = small_task()
        lm.backbone.source = source
        lm.save_to_preset(path)
    merged = merge_models(models, tmp_path / "merged")
    assert merged.backbone.source == "google/gemma-3-270m"
    assert "Gemma" in (tmp_path / "merged" / "NOTICE").read_text()
