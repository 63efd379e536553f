"""Models of this package as presets that the installed keras-hub loads."""

import dataclasses
import json

import h5py
import keras_hub
import numpy as np
import pytest
from keras import ops
from keras_hub_models import (
    IMAGE_SIZE,
    TOKENIZER,
    TOKENS_PER_IMAGE,
    hub_task,
    logits_of,
    logits_of_hub,
)
from tiny_models import CONFIG, TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import (
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def our_task(vision=True, dtype=None, tokenizer=TOKENIZER, **changes):
    config = dataclasses.replace(
        CONFIG if vision else TEXT_CONFIG,
        vocabulary_size=tokenizer.vocabulary_size(),
        end_of_image_token_id=tokenizer.end_of_image_token_id,
        image_token_id=tokenizer.image_token_id,
        **changes,
    )
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        tokenizer,
        T5Gemma2ImageConverter(IMAGE_SIZE) if vision else None,
        encoder_sequence_length=31,
        decoder_sequence_length=13,
        tokens_per_image=TOKENS_PER_IMAGE,
    )
    backbone = tiny_backbone(config, dtype)
    if not vision:
        # As keras-hub's text model reads it.
        table = ops.convert_to_numpy(backbone.embedder.table.embeddings)
        row = table[TOKENIZER.end_of_image_token_id]
        backbone.embedder.end_of_image.assign(row * np.float32(28**0.5))
    return T5Gemma2Seq2SeqLM(backbone, preprocessor)


@pytest.fixture(scope="module")
def lm():
    return our_task()


@pytest.fixture(scope="module")
def preset(lm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported")
    lm.save_to_keras_hub_preset(directory)
    return directory


def assert_same_weights(one, other):
    weights = {weight.path: weight for weight in other.weights}
    assert len(weights) == len(one.weights)
    for weight in one.weights:
        values = (ops.convert_to_numpy(w.value) for w in (weight, weights[weight.path]))
        np.testing.assert_array_equal(*values, err_msg=weight.path)


@pytest.mark.once
def test_keras_hub_loads_it_with_equal_outputs(lm, preset):
    hub = keras_hub.models.T5Gemma2Seq2SeqLM.from_preset(str(preset))
    np.testing.assert_allclose(logits_of_hub(hub), logits_of(lm), **CLOSE)


@pytest.mark.once
def test_keras_hub_loads_a_text_model_with_equal_outputs(tmp_path):
    lm = our_task(vision=False)
    lm.save_to_keras_hub_preset(tmp_path)
    hub = keras_hub.models.T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    np.testing.assert_allclose(logits_of_hub(hub, False), logits_of(lm, False), **CLOSE)


@pytest.mark.once
def test_keras_hub_writes_the_same_text(lm, preset):
    hub = keras_hub.models.T5Gemma2Seq2SeqLM.from_preset(str(preset))
    image = np.random.default_rng(0).integers(0, 256, (1, 50, 40, 3), dtype="uint8")
    hub.compile(sampler="greedy")
    lm.compile(sampler="greedy")
    prompt = "a number <start_of_image>"
    theirs = hub.generate({"encoder_text": [prompt], "decoder_text": ["one"], "images": image})
    ours = lm.generate({"encoder_text": [prompt], "decoder_text": ["one"], "images": [list(image)]})
    assert ours == theirs and len(ours[0]) > len("one")


@pytest.mark.once
def test_there_and_back(lm, preset):
    loaded = T5Gemma2Seq2SeqLM.from_preset(preset)
    assert loaded.backbone.config == lm.backbone.config
    assert_same_weights(loaded.backbone, lm.backbone)
    sizes = loaded.preprocessor.encoder_sequence_length, loaded.preprocessor.decoder_sequence_length
    assert sizes == (31, 13)


@pytest.mark.once
@pytest.mark.parametrize("vision", [False, True])
def test_back_and_there(tmp_path, vision):
    """What keras-hub wrote comes back out, array by array and setting by setting."""
    hub_task(vision, final_logit_softcapping=None).save_to_preset(str(tmp_path / "hub"))
    lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "hub")
    lm.save_to_keras_hub_preset(tmp_path / "ours")
    wanted, found = (_arrays(tmp_path / name) for name in ("hub", "ours"))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    wanted, found = (_names(tmp_path / name) for name in ("hub", "ours"))
    assert found - wanted == {"README.md", "NOTICE"} and wanted <= found
    wanted, found = (_json(tmp_path / name / "config.json")["config"] for name in ("hub", "ours"))
    assert found.keys() | {"vision_encoder"} == wanted.keys() | {"vision_encoder"}
    differing = {key for key in wanted if key != "name" and wanted[key] != found[key]}
    assert differing <= {"vision_encoder"}
    counts = [
        _json(tmp_path / name / "metadata.json")["parameter_count"] for name in ("hub", "ours")
    ]
    assert counts[0] == counts[1]


def _arrays(directory):
    found = {}
    with h5py.File(directory / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {})
        )
    return found


def _json(path):
    return json.loads(path.read_text())


@pytest.mark.once
def test_shards_in_half_precision_of_a_backbone_alone(tmp_path):
    lm = our_task(vision=False, dtype="bfloat16")
    lm.backbone.save_to_keras_hub_preset(tmp_path, max_shard_size=2e-4)
    assert len(list(tmp_path.glob("model_*.weights.h5"))) > 1
    assert not (tmp_path / "task.json").exists()
    hub = keras_hub.models.T5Gemma2Backbone.from_preset(str(tmp_path), dtype="bfloat16")
    kernel = ops.convert_to_numpy(hub.encoder_layers[1].self_attn.output_dense.kernel)
    ours = ops.convert_to_numpy(lm.backbone.encoder.blocks[1].attention.output_dense.kernel)
    assert kernel.tobytes() == ours.tobytes()


@pytest.mark.once
def test_a_task_without_preprocessor(tmp_path):
    lm = T5Gemma2Seq2SeqLM(our_task(vision=False).backbone)
    lm.save_to_keras_hub_preset(tmp_path)
    hub = keras_hub.models.T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    assert hub.preprocessor is None


@pytest.mark.once
def test_an_earlier_preset_makes_way(lm, preset, tmp_path):
    (tmp_path / "model_00003.weights.h5").write_bytes(b"")
    (tmp_path / "README.md").write_text("mine")
    with pytest.warns(UserWarning, match="README.md has been edited"):
        lm.save_to_keras_hub_preset(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in preset.iterdir()} | {"README.md"}
    assert (tmp_path / "README.md").read_text() == "mine"


def _names(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


# What keras-hub's format has no place for


@pytest.mark.once
def test_adapters_are_merged_first(tmp_path):
    lm = our_task(vision=False)
    lm.enable_lora(2)
    with pytest.raises(ValueError, match="Received: default at .*Call `merge_adapter` first"):
        lm.save_to_keras_hub_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()
    layer = lm.backbone.decoder.blocks[0].attention.query
    layer.adapters["default"].variables["lora_b"].assign(np.ones((2, layer.units)))
    lm.merge_adapter()
    lm.save_to_keras_hub_preset(tmp_path / "preset")
    merged = _arrays(tmp_path / "preset")[
        "layers/t5_gemma2_decoder_layer/merged_attn/query_dense/vars/0"
    ]
    np.testing.assert_array_equal(merged.reshape(28, -1), ops.convert_to_numpy(layer.kernel))


@pytest.mark.once
def test_quantized_weights(tmp_path):
    lm = our_task(vision=False)
    lm.backbone.decoder.blocks[0].mlp.up.quantize("int8")
    with pytest.raises(ValueError, match="of type int8"):
        lm.save_to_keras_hub_preset(tmp_path)


@pytest.mark.once
def test_a_vector_that_a_text_model_has_no_place_for(tmp_path):
    lm = our_task(vision=False)
    lm.backbone.embedder.end_of_image.assign(np.ones(28))
    with pytest.warns(UserWarning, match="end-of-image token, of id 5, like any other"):
        lm.save_to_keras_hub_preset(tmp_path)


# Tokenizers


@pytest.mark.slow
@pytest.mark.once
def test_a_tokenizer_json_is_written_as_a_model_of_sentencepiece(tmp_path):
    tokenizer = T5Gemma2Tokenizer(TOKENIZER.loaded_vocabulary()._tokenizer.to_str().encode())
    our_task(tokenizer=tokenizer).save_to_keras_hub_preset(tmp_path)
    hub = keras_hub.models.T5Gemma2Tokenizer.from_preset(str(tmp_path))
    for text in ("twenty-one  cats", "<start_of_image> né 東京 \n\n!", "<bos>x"[5:]):
        assert list(hub(text)) == TOKENIZER(text)
