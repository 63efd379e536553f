"""Presets that the installed keras-hub writes of its own T5Gemma 2, as models of this package."""

import json
import shutil

import h5py
import huggingface_hub
import kagglehub
import numpy as np
import pytest
from keras import ops
from keras_hub_models import TOKENIZER, hub_backbone, hub_task, logits_of, logits_of_hub

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    VisionConfig,
)

# What the two implementations may differ by: they compute in other orders.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
KINDS = ["text", "vision"]


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Presets of a text model and of one that sees images, with the logits of keras-hub."""
    made = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp(kind)
        task = hub_task(kind == "vision")
        task.save_to_preset(str(directory))
        made[kind] = (directory, logits_of_hub(task, kind == "vision"))
    return made


@pytest.fixture(scope="module")
def vision_preset(presets):
    return presets["vision"][0]


def numpy_weights(model):
    return {weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.once
def test_outputs_are_those_of_keras_hub(presets, kind):
    directory, wanted = presets[kind]
    lm = T5Gemma2Seq2SeqLM.from_preset(directory)
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(logits_of(lm, kind == "vision"), wanted, **CLOSE)


@pytest.mark.once
def test_the_config_is_translated(vision_preset):
    config = T5Gemma2Backbone.from_preset(vision_preset, load_weights=False).config

    def attention(heads, window, theta, factor):
        return AttentionConfig(*heads, window, theta, factor, 11.0, norm_epsilon=1e-5)

    sliding, full = attention((6, 3, 8), 5, 11_000.0, 1.0), attention((6, 3, 8), None, 1e6, 4.0)
    encoder = StackConfig(28, 44, (sliding, full), 1e-5)
    sliding, full = attention((4, 1, 10), 5, 9_000.0, 1.0), attention((4, 1, 10), None, 1e6, 8.0)
    assert config == BackboneConfig(
        vocabulary_size=2560,
        encoder=encoder,
        decoder=StackConfig(28, 36, (sliding, full), 1e-5),
        vision=VisionConfig(28, 7, 24, 40, 2, 3, 4, 1e-5),
        end_of_image_token_id=5,
        image_token_id=6,
        final_logit_soft_cap=3.0,
    )


@pytest.mark.once
def test_each_part_loads_by_itself(vision_preset):
    tokenizer = T5Gemma2Tokenizer.from_preset(vision_preset)
    assert tokenizer("one hundred") == TOKENIZER("one hundred")
    assert T5Gemma2ImageConverter.from_preset(vision_preset).image_size == (28, 28)
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor.from_preset(
        vision_preset, decoder_sequence_length=7
    )
    lengths = preprocessor.encoder_sequence_length, preprocessor.decoder_sequence_length
    assert (*lengths, preprocessor.tokens_per_image) == (131_072, 7, 4)
    assert preprocessor.image_converter.image_size == (28, 28)
    text_only = T5Gemma2Seq2SeqLM.from_preset(vision_preset, load_weights=False, text_only=True)
    assert text_only.preprocessor.image_converter is None


@pytest.mark.once
def test_without_the_vision_tower(vision_preset):
    whole = numpy_weights(T5Gemma2Backbone.from_preset(vision_preset))
    text = numpy_weights(T5Gemma2Backbone.from_preset(vision_preset, text_only=True))
    assert set(whole) - set(text) == {path for path in whole if path.startswith("vision/")}
    for path, value in text.items():
        np.testing.assert_array_equal(value, whole[path], err_msg=path)


@pytest.mark.once
def test_shards_and_dtypes(tmp_path):
    hub = hub_backbone(vision=False, dtype="bfloat16")
    hub.save_to_preset(str(tmp_path), max_shard_size=1.5e-4)
    assert len(list(tmp_path.glob("model_*.weights.h5"))) > 1
    backbone = T5Gemma2Backbone.from_preset(tmp_path, dtype="bfloat16")
    assert {weight.dtype for weight in backbone.weights} == {"bfloat16"}
    kernel = ops.convert_to_numpy(hub.encoder_layers[1].self_attn.query_dense.kernel)
    ours = ops.convert_to_numpy(backbone.encoder.blocks[1].attention.query.kernel)
    assert ours.tobytes() == kernel.tobytes()
    kernel = numpy_weights(T5Gemma2Backbone.from_preset(tmp_path, dtype="float32"))
    np.testing.assert_array_equal(
        kernel["encoder/layer_1/attention/query/kernel"], ours.astype("float32")
    )


# Tables that training has untied


@pytest.mark.once
def test_vectors_for_the_end_of_an_image_that_differ_stop_the_load(vision_preset, tmp_path):
    shutil.copytree(vision_preset, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        vectors = file["vars/0"][:], file["vars/1"][:] + 1
        file["vars/1"][:] = vectors[1]
    with pytest.raises(ValueError, match="vars/0 and vars/1.*differ in 1 rows, by up to 1"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path, embeddings="mean")
    vector = ops.convert_to_numpy(lm.backbone.embedder.end_of_image)
    np.testing.assert_allclose(vector, sum(vectors) / 2, rtol=1e-6)


@pytest.mark.once
def test_other_presets_have_one_table():
    for cls in (T5Gemma2Backbone, T5Gemma2Seq2SeqLM):
        with pytest.raises(ValueError, match="embeddings='mean' for .*tiny, which is none"):
            cls.from_preset("t5gemma2_tiny", embeddings="mean")


# What is no such preset


def changed(preset, directory, name="config.json", vision=(), **changes):
    """A copy of a preset with other values in a file, and in the part of the vision tower."""
    shutil.copytree(preset, directory, dirs_exist_ok=True)
    values = json.loads((directory / name).read_text())
    values["config"].update(changes)
    if vision:
        values["config"]["vision_encoder"]["config"].update(vision)
    (directory / name).write_text(json.dumps(values))
    return directory


@pytest.mark.once
def test_weights_that_do_not_fit_the_config(vision_preset, tmp_path):
    directory = changed(vision_preset, tmp_path, encoder_intermediate_dim=45)
    with pytest.raises(ValueError, match=r"mlp/gate_proj/vars/0, .* shape \(28, 45\)"):
        T5Gemma2Backbone.from_preset(directory)
    kinds = ["full_attention"] * 3
    changed(vision_preset, tmp_path, encoder_num_layers=3, encoder_layer_types=kinds)
    with pytest.raises(ValueError, match=r"Missing \(13\): layers/t5_gemma2_encoder_layer_2/mlp"):
        T5Gemma2Backbone.from_preset(directory)
    changed(vision_preset, tmp_path, encoder_num_layers=1, encoder_layer_types=kinds[:1])
    with pytest.raises(ValueError, match=r"Unexpected \(13\): layers/t5_gemma2_encoder_layer_1"):
        T5Gemma2Backbone.from_preset(directory)


@pytest.mark.once
def test_other_levels_of_images(vision_preset, tmp_path):
    directory = changed(vision_preset, tmp_path, "image_converter.json", scale=[1 / 255] * 3)
    with pytest.raises(ValueError, match=r"`scale` of the image converter .*scale=\[0.0039"):
        T5Gemma2ImageConverter.from_preset(directory)


@pytest.mark.once
def test_a_backbone_alone_does_not_know_its_image_token(tmp_path):
    hub_backbone().save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="<image_soft_token>.* without a tokenizer.*text_only"):
        T5Gemma2Backbone.from_preset(tmp_path)
    with pytest.warns(UserWarning, match="no assets/tokenizer/vocabulary.spm in .* no preproc"):
        lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path, text_only=True)
    assert lm.preprocessor is None
    with pytest.raises(FileNotFoundError, match="needs assets/tokenizer/vocabulary.spm"):
        T5Gemma2Tokenizer.from_preset(tmp_path)


# Presets that lie elsewhere


@pytest.mark.once
def test_handles_of_kaggle_and_of_the_hub(vision_preset, monkeypatch):
    asked = []

    def kaggle(handle, path=None):
        asked.append((handle, path))
        return str(vision_preset if path is None else vision_preset / path)

    monkeypatch.setattr(kagglehub, "model_download", kaggle)
    handle = "keras/t5gemma-2/keras/t5gemma2_270m_270m/2"
    T5Gemma2Backbone.from_preset(f"kaggle://{handle}")
    assert asked == [(handle, "config.json"), (handle, None)]
    assert T5Gemma2Tokenizer.from_preset(f"kaggle://{handle}")("one") == TOKENIZER("one")
    assert (handle, "assets/tokenizer/vocabulary.spm") in asked and len(asked) == 10

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name: vision_preset / name)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda _, **k: asked.append(k) or vision_preset
    )
    T5Gemma2Backbone.from_preset("hf://somebody/tuned")
    assert "model.weights.h5" in asked[-1]["allow_patterns"]
