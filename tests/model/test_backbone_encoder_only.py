"""The encoder alone: built and read without the decoder, from every kind of files."""

import dataclasses

import keras
import numpy as np
import pytest
import transformers
from keras import ops
from reference_models import tiny_reference
from tiny_models import CONFIG, TEXT_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.files.safetensors import read_safetensors

NEAR = {"rtol": 0, "atol": 1e-5}
ALONE = dataclasses.replace(CONFIG, decoder=None)


def states(backbone, inputs):
    found = ops.convert_to_numpy(backbone(inputs)["encoder_sequence_output"])
    return found[inputs["encoder_padding_mask"].astype(bool)]


@pytest.mark.once
def test_a_preset_gives_the_same_states_with_half_of_the_weights(rng, tmp_path):
    whole = tiny_backbone()
    whole.save_to_preset(tmp_path)
    alone = T5Gemma2Backbone.from_preset(tmp_path, encoder_only=True)
    assert alone.config == ALONE and alone.decoder is None
    of_decoder = sum(int(np.prod(weight.shape)) for weight in whole.decoder.weights)
    assert alone.count_params() == whole.count_params() - of_decoder
    inputs = token_inputs(rng, (11, 7), (3, 5), images=1)
    outputs = alone(inputs)  # those of the decoder are not read
    assert list(outputs) == ["encoder_sequence_output"]
    np.testing.assert_allclose(states(alone, inputs), states(whole, inputs), **NEAR)


@pytest.mark.once
def test_an_encoder_alone_is_saved_and_loaded(rng, tmp_path):
    alone = tiny_backbone(ALONE)
    inputs = token_inputs(rng, (11, 7), (1, 1), images=1)
    alone.save_to_preset(tmp_path / "preset")
    alone.save(tmp_path / "alone.keras")
    loaded = [
        T5Gemma2Backbone.from_preset(tmp_path / "preset"),
        keras.saving.load_model(tmp_path / "alone.keras"),
    ]
    for found in loaded:
        assert found.config == ALONE
        np.testing.assert_allclose(states(found, inputs), states(alone, inputs), **NEAR)
    with pytest.raises(ValueError, match="must have a decoder to be saved for keras-hub"):
        alone.save_to_keras_hub_preset(tmp_path / "hub")


@pytest.mark.once
def test_the_reference_loads_it_and_its_own_directories_load(tmp_path):
    """Of the whole model and of the encoder alone, as transformers writes them."""
    reference = tiny_reference()
    reference.save_pretrained(tmp_path / "whole")
    reference.model.encoder.save_pretrained(tmp_path / "encoder")
    ours = T5Gemma2Backbone.from_preset(tmp_path / "whole", encoder_only=True)
    ours.export_to_transformers(tmp_path / "ours")
    model, found = transformers.AutoModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(model).__name__ == "T5Gemma2Encoder" and not any(found.values())
    names = read_safetensors(tmp_path / "ours")
    assert not any("decoder" in name or "lm_head" in name for name in names)
    ids = np.random.default_rng(0).integers(10, 101, (1, 9))
    ids[0, 3] = 6  # the end of an image
    inputs = {"encoder_token_ids": ids, "encoder_padding_mask": np.ones_like(ids)}
    torch_ids = transformers.BatchEncoding({"input_ids": ids}, tensor_type="pt")
    want = reference.model.encoder(**torch_ids).last_hidden_state[0].detach().numpy()
    for backbone in (ours, T5Gemma2Backbone.from_preset(tmp_path / "encoder")):
        np.testing.assert_allclose(states(backbone, inputs), want, **NEAR)
    found = model.eval()(**torch_ids).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(found, want, **NEAR)


@pytest.mark.once
def test_presets_of_keras_hub(rng, tmp_path):
    whole = tiny_backbone(TEXT_CONFIG)
    whole.save_to_keras_hub_preset(tmp_path)
    alone = T5Gemma2Backbone.from_preset(tmp_path, encoder_only=True)
    inputs = token_inputs(rng, (11, 7), (1, 1))
    np.testing.assert_allclose(states(alone, inputs), states(whole, inputs), **NEAR)


@pytest.mark.once
def test_adapters_and_integers(rng):
    alone = tiny_backbone(ALONE)
    alone.gradient_checkpointing = True
    assert alone.encoder.gradient_checkpointing
    alone.quantize("int8")
    assert not any(path.startswith("decoder") for path in alone.quantized_layers)
    again = T5Gemma2Backbone.from_config(alone.get_config())
    assert again.quantized_layers == alone.quantized_layers and again.config == ALONE
