"""Presets of quantized weights, and weights that are quantized as they are read."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from quantized_tasks import matrices, modes, quantized_task
from tasks import SMALL_ROWS, small_task, tiny_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.model import loading

_ONCE = [
    pytest.param("int4", marks=[pytest.mark.once, pytest.mark.slow]),
    pytest.param("int4 columns", marks=pytest.mark.once),
]


@pytest.fixture(scope="module", params=["int8", "blocks of 8", *_ONCE])
def saved(request, tmp_path_factory):
    """A quantized task, its logits, and a preset of it."""
    lm = quantized_task(request.param)
    directory = tmp_path_factory.mktemp("preset")
    lm.save_to_preset(directory)
    return lm, lm.predict(SMALL_ROWS, verbose=0), directory


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    directory = tmp_path_factory.mktemp("floats")
    small_task().save_to_preset(directory)
    return directory


def weights_of(model):
    return {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert value.dtype == other[path].dtype
        np.testing.assert_array_equal(value, other[path], err_msg=path)


@pytest.mark.once
def test_the_task(saved):
    lm, logits, directory = saved
    loaded = T5Gemma2Seq2SeqLM.from_preset(directory)
    assert_same_weights(loaded, lm)
    np.testing.assert_allclose(loaded.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-6, atol=1e-6)
    loaded.compile(sampler="greedy")
    assert loaded.generate("the cat", max_new_tokens=4) == lm.generate("the cat", max_new_tokens=4)


@pytest.mark.once
def test_the_backbone(saved):
    lm, _, directory = saved
    for cls in (T5Gemma2Backbone, keras_hub.models.Backbone):
        backbone = cls.from_preset(str(directory))
        assert type(backbone) is T5Gemma2Backbone
        assert_same_weights(backbone, lm.backbone)
    backbone.save_to_preset(directory.parent / "backbone")
    again = T5Gemma2Seq2SeqLM.from_preset(directory.parent / "backbone", preprocessor=None)
    assert_same_weights(again.backbone, lm.backbone)


@pytest.mark.once
def test_by_keras_and_keras_hub(saved, tmp_path):
    lm, logits, directory = saved
    loaded = keras_hub.models.Seq2SeqLM.from_preset(str(directory))
    lm.save(tmp_path / "task.keras")
    for revived in (loaded, keras.saving.load_model(tmp_path / "task.keras")):
        assert_same_weights(revived, lm)
        np.testing.assert_allclose(
            revived.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-6, atol=1e-6
        )


@pytest.mark.once
def test_saving_changes_nothing(saved):
    lm, _, directory = saved
    config = json.loads((directory / "config.json").read_text())["config"]
    loaded = T5Gemma2Backbone.from_preset(directory)
    assert loaded.quantized_layers == config["quantized_layers"] == lm.backbone.quantized_layers
    assert len(loaded.quantized_layers) == 15
    assert loaded.dtype_policy.name == "float32"


@pytest.mark.once
def test_another_dtype(saved):
    """Of what is no integer, and of what is computed."""
    lm, _, directory = saved
    loaded = T5Gemma2Seq2SeqLM.from_preset(directory, dtype="bfloat16")
    kinds = {path.rpartition("/")[2]: value.dtype for path, value in weights_of(loaded).items()}
    assert kinds["kernel"] == "int8" and kinds["kernel_scale"] == kinds["scale"] == "bfloat16"
    assert {layer.compute_dtype for layer in matrices(loaded.backbone)} == {"bfloat16"}
    assert modes(loaded.backbone) == modes(lm.backbone)


@pytest.mark.once
@pytest.mark.parametrize("cls", [T5Gemma2Seq2SeqLM, T5Gemma2Backbone])
@pytest.mark.parametrize("text_only", [False, True])
def test_a_model_with_a_vision_tower(cls, text_only, tmp_path):
    lm = tiny_task()
    lm.quantize("int4", filters=["^(en|de)coder", "vision/.*/(query|down)"])
    lm.save_to_preset(tmp_path)
    loaded = cls.from_preset(tmp_path, text_only=text_only)
    got, wanted = weights_of(loaded), weights_of(lm)
    if text_only:
        wanted = {path: value for path, value in wanted.items() if path[:7] != "vision/"}
    assert got.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(got[path], value, err_msg=path)
    assert {path: got[path].dtype for path in got} == {p: wanted[p].dtype for p in wanted}


@pytest.mark.once
def test_rounded_inputs_are_remembered(tmp_path):
    lm = small_task()
    lm.quantize(keras.quantizers.Int8QuantizationConfig())
    lm.save_to_preset(tmp_path)
    for loaded in (
        T5Gemma2Seq2SeqLM.from_preset(tmp_path),
        keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path)),
    ):
        assert loaded.backbone.rounds_activations
        got, wanted = loaded.predict(SMALL_ROWS, verbose=0), lm.predict(SMALL_ROWS, verbose=0)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


# While it is loaded


@pytest.mark.once
@pytest.mark.parametrize("mode", [pytest.param("int8", marks=pytest.mark.once), "int4"])
def test_floats_quantized_as_they_are_read(mode, floats):
    wanted = quantized_task(mode)
    loaded = T5Gemma2Seq2SeqLM.from_preset(floats, quantize=mode)
    assert_same_weights(loaded, wanted)
    np.testing.assert_allclose(
        loaded.predict(SMALL_ROWS, verbose=0),
        wanted.predict(SMALL_ROWS, verbose=0),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.once
@pytest.mark.parametrize("way", ["a preset of integers", "while it is read"])
def test_no_matrix_is_ever_there_in_floats(way, saved, floats, monkeypatch):
    seen = []

    def spy(values, take_over=loading.take_over):
        seen.append(values)
        return take_over(values)

    monkeypatch.setattr(loading, "take_over", spy)
    if way == "while it is read":
        backbone = T5Gemma2Backbone.from_preset(floats, quantize="int8")
    else:
        backbone = T5Gemma2Backbone.from_preset(saved[2])
    shapes = {layer.matrix_shape for layer in matrices(backbone)}
    assert not any(values.shape in shapes for values in seen if values.dtype == "float32")
    assert sum(values.dtype == "int8" and values.ndim == 2 for values in seen) >= len(shapes) > 6


@pytest.mark.once
def test_options_of_quantizing_while_loading(floats):
    config = keras.quantizers.Int4QuantizationConfig(block_size=8)
    chosen = {"config": config, "filters": "mlp/"}
    for kwargs in ({}, {"load_weights": False}):
        loaded = T5Gemma2Backbone.from_preset(floats, quantize=chosen, **kwargs)
        found = {path for path, mode in modes(loaded).items() if mode == "int4"}
        assert len(found) == 6 and all("/mlp/" in path for path in found)
        assert loaded.encoder.blocks[0].mlp.up.scheme.block == 8
        assert np.abs(ops.convert_to_numpy(loaded.encoder.blocks[0].mlp.up._kernel)).max() > 1
    loaded = T5Gemma2Backbone.from_preset(
        floats, quantize=keras.quantizers.Int8QuantizationConfig(), dtype="bfloat16"
    )
    assert loaded.rounds_activations and loaded.token_embedding.compute_dtype == "bfloat16"


@pytest.mark.once
@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ("int3", "mode='int3'"),
        ({"mode": "int8", "filter": "x"}, "'filter'"),
        ({"mode": "int8", "filters": "attn"}, "embedder/table"),
        (keras.quantizers.GPTQConfig(dataset=None, tokenizer=None), "'gptq'"),
    ],
)
def test_what_cannot_be_quantized_while_loading(quantize, message, floats):
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(floats, quantize=quantize)


@pytest.mark.once
def test_a_quantized_preset_is_not_quantized_again(saved):
    with pytest.raises(ValueError, match="config.json, whose .* is int"):
        T5Gemma2Backbone.from_preset(saved[2], quantize="int8")


# Files that are not what they should be


@pytest.fixture
def config(tmp_path):
    """A preset of int8 weights, and its parsed config with a function that writes it."""
    quantized_task("int8").save_to_preset(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())

    def load():
        (tmp_path / "config.json").write_text(json.dumps(values))
        return T5Gemma2Backbone.from_preset(tmp_path)

    return values["config"], load


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "mode", "message"),
    [
        ("encoder/norm", "int8", "'int8' for 'encoder/norm'"),
        ("encoder/layer_9/mlp/up", "int8", "for 'encoder/layer_9/mlp/up'"),
        ("encoder/layer_0/mlp/up", "int3", "'int3' for"),
        ("encoder/layer_0/mlp/up", "int4/0", "'int4/0' for"),
        ("encoder/layer_0/mlp/up", ["int8"], r"\['int8'\] for"),
        ("embedder/table", "gptq/4/32", "'gptq/4/32' for 'embedder/table'"),
    ],
)
def test_a_map_that_does_not_fit(config, layer, mode, message):
    values, load = config
    values["quantized_layers"][layer] = mode
    with pytest.raises(ValueError, match=message):
        load()


@pytest.mark.once
def test_a_list_in_the_place_of_the_map(config):
    values, load = config
    values["quantized_layers"] = ["embedder/table"]
    with pytest.raises(ValueError, match=r"config.json must be .* \['embedder/table'\]"):
        load()


@pytest.mark.once
def test_weights_of_another_type_than_the_config_says(config):
    values, load = config
    modes = values["quantized_layers"]
    del modes["embedder/table"]
    with pytest.raises(ValueError, match="Unexpected .*layers/embedder/table/vars/1"):
        load()
    modes["embedder/table"] = "int8"
    modes["encoder/layer_0/mlp/up"] = "int4/32"
    with pytest.raises(ValueError, match="Missing .*layers/encoder/blocks/block/mlp/up/vars/3"):
        load()
    modes["encoder/layer_0/mlp/up"] = "int4/-1"
    with pytest.raises(ValueError, match=r"encoder/layer_0/mlp/up/kernel.* \(28, 22\)"):
        load()


@pytest.mark.once
def test_layers_that_a_model_has_not():
    config = small_task().backbone.config
    with pytest.raises(ValueError, match="Received: 'encoder/norm'"):
        T5Gemma2Backbone(config, quantized_layers={"encoder/norm": "int8"})
