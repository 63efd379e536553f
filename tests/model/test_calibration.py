"""GPTQ and AWQ: Keras's own, on the blocks of both stacks, by texts that both halves read."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from quantized_tasks import matrices, modes
from tasks import SMALL_ROWS, TOKENIZER, small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.model import calibration

pytestmark = pytest.mark.once  # Keras's calibration runs op by op

TEXTS = [
    "the original image and here are some crops to help you see better, 3 of them!",
    "what is in this garden: a red bee, a flower; compare 12 cats with 7 dogs.",
    "DESCRIBE a house? 0123456789 + abcdefghijklmnopqrstuvwxyz (with: many letters)",
]
CONFIGS = {"gptq": keras.quantizers.GPTQConfig, "awq": keras.quantizers.AWQConfig}


def uneven_task():
    """A task whose MLPs have a few inputs that are much larger than the others."""
    lm = small_task()
    for stack in (lm.backbone.encoder, lm.backbone.decoder):
        scale = stack.blocks[0].mlp_norm.scale
        values = np.array(ops.convert_to_numpy(scale))
        values[[3, 11, 20]] = 9.0
        scale.assign(values)
    return lm


def calibrated(mode, **kwargs):
    """A calibrated task, and the inputs that each of its layers was calibrated with."""
    lm, seen = uneven_task(), {}
    layers = [layer for layer in matrices(lm.backbone) if "/mlp/" in layer.path]
    # Keras's GPTQ needs groups, the last one too, of numbers of both signs.
    size = -1 if mode == "gptq" else 16
    if mode == "awq":
        kwargs["num_grid_points"] = 6  # of 20, each of which computes all layers
    config = CONFIGS[mode](
        TEXTS, TOKENIZER, num_samples=4, sequence_length=20, group_size=size, **kwargs
    )
    call = type(layers[0]).call

    def watched(self, x, training=None):
        if "/mlp/" in self.path:
            seen.setdefault(self.path, []).append(ops.convert_to_numpy(x))
        return call(self, x, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(layers[0]), "call", watched)
        lm.quantize(config, filters="/mlp/")
    return lm, seen


# One kind by default: each takes seconds.
KINDS = ["gptq", pytest.param("awq", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    return calibrated(request.param)


def test_outputs_are_nearer_than_those_of_rounding(pair):
    """Of the layers, each on the inputs that it has among the texts."""
    lm, seen = pair
    rounded = uneven_task()
    block = 16 if lm.backbone.quantized_layers["encoder/layer_0/mlp/up"] == "awq/4/16" else 64
    rounded.quantize(keras.quantizers.Int4QuantizationConfig(block_size=block), filters="/mlp/")
    floats = uneven_task()
    errors = np.zeros(2)
    for layers in zip(*(matrices(task.backbone) for task in (lm, rounded, floats)), strict=True):
        if (path := layers[0].path) in seen:
            x = np.concatenate([x.reshape(-1, x.shape[-1]) for x in seen[path]])
            ours, simple, wanted = (x @ ops.convert_to_numpy(y.float_matrix()) for y in layers)
            errors += [np.square(y - wanted).mean() for y in (ours, simple)]
    assert len(seen) == 6
    assert errors[0] < 0.9 * errors[1]


def test_what_is_calibrated(pair):
    lm, _ = pair
    found = modes(lm.backbone)
    assert {path for path, mode in found.items() if mode} == {p for p in found if "/mlp/" in p}
    assert lm.generate("the cat", max_new_tokens=3)
    logits, wanted = (task.predict(SMALL_ROWS, verbose=0) for task in (lm, uneven_task()))
    assert np.abs(logits - wanted).max() < 0.5 * np.abs(wanted).max()
    lm.quantize("int8", filters="embedder")  # which no calibration is for
    assert modes(lm.backbone)["embedder/table"] == "int8"


def test_in_a_preset(pair, tmp_path):
    lm, _ = pair
    logits = lm.predict(SMALL_ROWS, verbose=0)
    lm.save_to_preset(tmp_path)
    loaded = T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    np.testing.assert_allclose(loaded.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-5, atol=1e-5)
    backbone = T5Gemma2Backbone.from_preset(tmp_path)
    for one, other in zip(backbone.weights, lm.backbone.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_adapters_on_calibrated_weights(pair):
    lm, _ = pair
    lm.enable_lora(2, target=["up"])
    losses = lm.fit(SMALL_ROWS, epochs=2, verbose=0, shuffle=False).history["loss"]
    assert losses[1] < losses[0]
    with pytest.raises(ValueError, match="encoder/layer_0/mlp/.*, quantized by '(gptq|awq)'"):
        lm.merge_adapter()
    lm.remove_adapter("default")


@pytest.mark.slow
def test_bits_and_order_of_gptq(tmp_path):
    lm, _ = calibrated("gptq", weight_bits=8, activation_order=True)
    got, wanted = lm.predict(SMALL_ROWS, verbose=0), uneven_task().predict(SMALL_ROWS, verbose=0)
    assert 0 < np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()
    lm.save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert set(config["quantized_layers"].values()) == {"gptq/8/-1"}
    loaded = T5Gemma2Seq2SeqLM.from_preset(tmp_path).predict(SMALL_ROWS, verbose=0)
    np.testing.assert_allclose(loaded, got, rtol=1e-5, atol=1e-5)


def test_calibration_beside_an_adapter_with_dropout():
    lm = small_task()
    lm.enable_lora(2, target=["up"], dropout=0.1)
    with pytest.raises(
        ValueError, match="no adapter with dropout. Received: encoder/layer_0/mlp/up"
    ):
        lm.quantize(CONFIGS["gptq"](TEXTS, TOKENIZER, num_samples=2, sequence_length=8))


@pytest.mark.slow
@pytest.mark.parametrize("mode", KINDS)
def test_an_interrupt_leaves_all_as_it_was(monkeypatch, mode):
    """Also the layers that were calibrated already: here those of the encoder."""
    lm = small_task()
    before, names = np.asarray(lm.score(SMALL_ROWS)), [weight.path for weight in lm.weights]
    size = -1 if mode == "gptq" else 16
    options = {"num_grid_points": 2} if mode == "awq" else {}
    config = CONFIGS[mode](
        TEXTS, TOKENIZER, num_samples=1, sequence_length=8, group_size=size, **options
    )
    with monkeypatch.context() as patch:
        found = []

        def stop(*arguments):
            stacks = (lm.backbone.encoder, lm.backbone.decoder)
            found.extend(stack.blocks[0].mlp.up.has_integers for stack in stacks)
            raise KeyboardInterrupt

        patch.setattr(calibration, "_decode", stop)
        with pytest.raises(KeyboardInterrupt):
            lm.quantize(config, filters="layer_0/mlp/up")
    assert found == [True, False]
    assert lm.backbone.quantized_layers == {}
    assert [weight.path for weight in lm.weights] == names
    np.testing.assert_allclose(lm.score(SMALL_ROWS), before, rtol=1e-6)
    lm.fit(SMALL_ROWS, verbose=0)
    lm.quantize(config, filters="layer_0/mlp/up")
    assert len(lm.backbone.quantized_layers) == 2
