"""Properties of the whole model, on random weights."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import (
    CONFIG,
    IMAGE,
    SMALL_CONFIG,
    TEXT_CONFIG,
    VISION,
    randomize,
    tiny_backbone,
    token_inputs,
)
from tolerances import TOLERANCE

from keras_t5gemma2.model.backbone import T5Gemma2Backbone


@pytest.fixture(scope="module")
def model():
    return tiny_backbone()


def outputs_of(model, inputs):
    """Compiled where the backend compiles: op by op, JAX takes minutes for what takes seconds."""
    outputs = model.predict_on_batch(model.complete(inputs))
    return {name: numpy32(value) for name, value in outputs.items()}


def numpy32(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def assert_rows_equal(got, want, inputs, got_mask=None, want_mask=None, tolerance=None):
    """Compares the tokens that are no padding, row by row."""
    for stream in ("encoder", "decoder"):
        for row, mask in enumerate(np.asarray(inputs[f"{stream}_padding_mask"], bool)):
            there = (
                mask
                if got_mask is None
                else np.asarray(got_mask[f"{stream}_padding_mask"][row], bool)
            )
            name = f"{stream}_sequence_output"
            np.testing.assert_allclose(
                got[name][row][there], want[name][row][mask], **(tolerance or TOLERANCE["float32"])
            )


def test_the_content_of_padding_changes_nothing(model, rng):
    inputs = token_inputs(rng, (13, 8), (3, 9), images=1)
    changed = {name: value.copy() for name, value in inputs.items()}
    for stream in ("encoder", "decoder"):
        ids, mask = changed[f"{stream}_token_ids"], changed[f"{stream}_padding_mask"]
        ids[mask == 0] = rng.integers(0, 101, size=(mask == 0).sum())
    assert_rows_equal(outputs_of(model, changed), outputs_of(model, inputs), inputs)


def test_padding_on_either_side_is_the_same(model):
    right = token_inputs(np.random.default_rng(1), (13, 8), (3, 9), side="right", images=1)
    left = token_inputs(np.random.default_rng(1), (13, 8), (3, 9), side="left", images=1)
    got, want = outputs_of(model, left), outputs_of(model, right)
    assert_rows_equal(got, want, right, got_mask=left)


@pytest.mark.once
def test_a_row_alone_is_the_row_in_a_batch(model, rng):
    inputs = token_inputs(rng, (13, 17), (9, 3), images=2)
    whole = outputs_of(model, inputs)
    for row in (0, 1):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        part = {name: value[row : row + 1] for name, value in whole.items()}
        assert_rows_equal(outputs_of(model, alone), part, alone)


@pytest.mark.compiled
def test_no_token_of_the_decoder_sees_a_later_one(model, rng):
    inputs = token_inputs(rng, (13,), (9,))
    changed = {**inputs, "decoder_token_ids": inputs["decoder_token_ids"].copy()}
    changed["decoder_token_ids"][:, 5:] = 50
    name = "decoder_sequence_output"
    got, want = outputs_of(model, changed)[name], outputs_of(model, inputs)[name]
    np.testing.assert_allclose(got[:, :5], want[:, :5], **TOLERANCE["float32"])
    assert np.abs(got[:, 5:] - want[:, 5:]).max() > 1e-2


@pytest.mark.once
def test_a_token_of_the_encoder_sees_the_last_one(model, rng):
    inputs = token_inputs(rng, (13,), (9,))
    changed = {**inputs, "encoder_token_ids": inputs["encoder_token_ids"].copy()}
    changed["encoder_token_ids"][:, -1] = 50
    name = "encoder_sequence_output"
    assert (
        np.abs(outputs_of(model, changed)[name] - outputs_of(model, inputs)[name])[:, 0].max()
        > 1e-4
    )


@pytest.mark.once
def test_stepwise_is_the_whole_sequence(model, rng):
    """Steps without a cache: each longer prefix gives the same states at its tokens."""
    inputs = token_inputs(rng, (13,), (9,))
    whole = outputs_of(model, inputs)["decoder_sequence_output"]
    for length in (1, 8):
        prefix = {**inputs}
        for name in ("decoder_token_ids", "decoder_padding_mask"):
            prefix[name] = inputs[name][:, :length]
        got = outputs_of(model, prefix)["decoder_sequence_output"]
        np.testing.assert_allclose(got, whole[:, :length], **TOLERANCE["float32"])


@pytest.mark.once
def test_no_images_is_the_text_only_model(rng, monkeypatch):
    """Neither without the key nor with an empty axis does the vision tower run."""
    model = tiny_backbone()
    inputs = token_inputs(rng, (13, 8), (3, 5))
    inputs["encoder_token_ids"][0, 3] = IMAGE  # keeps its embedding
    text_only = T5Gemma2Backbone(TEXT_CONFIG)
    values = {weight.path: weight for weight in model.weights}
    for weight in text_only.weights:
        weight.assign(numpy32(values[weight.path]))
    want = outputs_of(text_only, inputs)

    monkeypatch.setattr(model.vision.tower, "call", None)
    assert_rows_equal(outputs_of(model, inputs), want, inputs)
    images = np.zeros((2, 0, 28, 28, 3), "float32")
    assert_rows_equal(outputs_of(model, {**inputs, "images": images}), want, inputs)


@pytest.mark.compiled
def test_images_fill_their_own_rows_in_order(model, rng):
    """A row of one image and a row of two, in one batch, are the rows alone."""
    two = token_inputs(rng, (17,), (9,), images=2)
    one = token_inputs(rng, (17,), (9,), images=1)
    padded = np.concatenate([one["images"], np.zeros_like(one["images"])], axis=1)
    batch = {name: np.concatenate([one[name], two[name]]) for name in one if name != "images"}
    batch["images"] = np.concatenate([padded, two["images"]])
    whole = outputs_of(model, batch)
    for row, alone in enumerate((one, two)):
        part = {name: value[row : row + 1] for name, value in whole.items()}
        assert_rows_equal(outputs_of(model, alone), part, alone)
    swapped = {**two, "images": two["images"][:, ::-1]}
    name = "encoder_sequence_output"
    assert np.abs(outputs_of(model, swapped)[name] - outputs_of(model, two)[name]).max() > 1e-2


def test_the_embedding_is_one_variable(model):
    shape = (CONFIG.vocabulary_size, CONFIG.hidden_dim)
    assert sum(tuple(weight.shape) == shape for weight in model.weights) == 1
    assert sum("end_of_image" in weight.path for weight in model.weights) == 1


@pytest.mark.parametrize(
    "dtype",
    [
        *("bfloat16", "mixed_float16"),
        *(pytest.param(d, marks=pytest.mark.once) for d in ("float16", "mixed_bfloat16")),
    ],
)
def test_low_precision_is_finite_and_reaches_every_part(rng, dtype):
    model = tiny_backbone(dataclasses.replace(SMALL_CONFIG, vision=VISION), dtype=dtype)
    policy = keras.dtype_policies.get(dtype)
    assert {weight.dtype for weight in model.weights} == {policy.variable_dtype}
    inputs = token_inputs(rng, (13, 8), (3, 9), side="left", images=1)
    inputs["encoder_padding_mask"][1] = 0  # a row with nothing to see
    for value in model.predict_on_batch(model.complete(inputs)).values():
        assert keras.backend.standardize_dtype(value.dtype) == policy.compute_dtype
        assert np.isfinite(numpy32(value)).all()
    for layer in model._flatten_layers(include_self=False):
        if layer.name != "dropout" and not isinstance(layer, keras.layers.InputLayer):
            assert layer.compute_dtype == policy.compute_dtype, layer.path


@pytest.mark.compiled
def test_bfloat16_is_near_float32(model, rng):
    inputs = token_inputs(rng, (13, 8), (3, 9), images=1)
    want, got = (outputs_of(m, inputs) for m in (model, tiny_backbone(dtype="bfloat16")))
    for name in want:
        error = np.sqrt(np.mean((got[name] - want[name]) ** 2) / np.mean(want[name] ** 2))
        assert error < 0.03, (name, error)


def test_every_constructor_argument_survives(model):
    config = model.get_config()
    arguments = set(inspect.signature(T5Gemma2Backbone.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    revived = T5Gemma2Backbone.from_config(json.loads(json.dumps(config)))
    assert revived.config == model.config
    assert revived.get_config() == config


def test_keras_file_and_back(model, rng, tmp_path):
    model.save(tmp_path / "model.keras")
    revived = keras.saving.load_model(tmp_path / "model.keras")
    inputs = token_inputs(rng, (13, 8), (3, 9), images=1)
    for got, want in zip(revived.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy32(got), numpy32(want))
    got, want = outputs_of(revived, inputs), outputs_of(model, inputs)
    # TensorFlow compiles anew, for any shapes, what has been called with several of them.
    for name in want:
        np.testing.assert_allclose(got[name], want[name], **TOLERANCE["float32"])


class Training(keras.Model):
    """The model as it is in training, and its decoder over what `encoded` holds, compiled."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        inputs = {**inputs}
        encoded = inputs.pop("encoded")
        x = self.model.embedder(inputs["decoder_token_ids"])
        masks = [inputs[f"{stream}_padding_mask"] for stream in ("decoder", "encoder")]
        decoded = self.model.decoder(x, masks[0], encoded, masks[1], training=True)
        return {**self.model(inputs, training=True), "decoded": decoded}


@pytest.mark.once
def test_dropout_acts_in_training_only(rng):
    """Of hidden states in the encoder, of attention in the decoder."""
    encoder = dataclasses.replace(SMALL_CONFIG.encoder, dropout=0.4)
    noisy = [dataclasses.replace(layer, dropout=0.4) for layer in SMALL_CONFIG.decoder.layers]
    decoder = dataclasses.replace(SMALL_CONFIG.decoder, layers=noisy)
    model = tiny_backbone(dataclasses.replace(SMALL_CONFIG, encoder=encoder, decoder=decoder))
    inputs = token_inputs(rng, (13, 8), (3, 9))
    still, again = (outputs_of(model, inputs) for _ in range(2))
    training = Training(model)
    inputs["encoded"] = still["encoder_sequence_output"]
    first, second = (training.predict_on_batch(inputs) for _ in range(2))
    for name in still:
        np.testing.assert_array_equal(still[name], again[name])
        assert np.abs(numpy32(first[name]) - still[name]).max() > 1e-2
        assert np.abs(numpy32(first[name]) - numpy32(second[name])).max() > 1e-2
    # Over the encoder's output without noise the decoder's own noise shows.
    assert np.abs(numpy32(first["decoded"]) - still["decoder_sequence_output"]).max() > 1e-2


def test_variable_paths_are_pinned(model):
    """Checkpoint tables, adapters and layouts hang on these."""
    attention = ["query/kernel", "key/kernel", "value/kernel", "output/kernel"]
    layer = [
        "attention_norm/scale",
        *(f"attention/{name}" for name in (*attention, "query_norm/scale", "key_norm/scale")),
        "attention_output_norm/scale",
        "mlp_norm/scale",
        *(f"mlp/{name}/kernel" for name in ("gate", "up", "down")),
        "mlp_output_norm/scale",
    ]
    tower_layer = [
        f"{name}/{part}"
        for name, parts in {
            "attention_norm": ("gamma", "beta"),
            **dict.fromkeys(("query", "key", "value", "output"), ("kernel", "bias")),
            "mlp_norm": ("gamma", "beta"),
            **dict.fromkeys(("up", "down"), ("kernel", "bias")),
        }.items()
        for part in parts
    ]
    expected = [
        "embedder/table/embeddings",
        "embedder/end_of_image",
        "vision/tower/patch_embedding/kernel",
        "vision/tower/patch_embedding/bias",
        "vision/tower/position_embedding",
        *(f"vision/tower/layer_{i}/{name}" for i in range(2) for name in tower_layer),
        "vision/tower/norm/gamma",
        "vision/tower/norm/beta",
        "vision/projector/norm/scale",
        "vision/projector/projection/kernel",
        *(f"encoder/layer_{i}/{name}" for i in range(3) for name in layer),
        "encoder/norm/scale",
        *(f"decoder/layer_{i}/{name}" for i in range(2) for name in layer),
        "decoder/norm/scale",
    ]
    assert sorted(weight.path for weight in model.weights) == sorted(expected)


@pytest.mark.once
def test_gradients_reach_every_variable(rng):
    """Images and end-of-image tokens included: all are used in training."""
    backbone = tiny_backbone(dataclasses.replace(SMALL_CONFIG, vision=VISION))
    backbone.vision.tower.trainable = True
    before, after = one_step(backbone, rng)
    for path, value in before.items():
        if not path.endswith("key/bias"):  # a shift of all scores of a query: no gradient
            assert np.abs(after[path] - value).max() > 0, path


def one_step(backbone, rng):
    """The values of all variables before and after a step on images and end-of-image tokens."""
    inputs = token_inputs(rng, (13, 17), (9, 3), images=1)
    inputs["encoder_token_ids"][:, 6] = CONFIG.end_of_image_token_id
    hidden = backbone(backbone.input)["decoder_sequence_output"]
    model = keras.Model(backbone.input, backbone.token_embedding(hidden, reverse=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    before = {weight.path: numpy32(weight).copy() for weight in backbone.weights}
    model.train_on_batch(backbone.complete(inputs), inputs["decoder_token_ids"])
    return before, {weight.path: numpy32(weight) for weight in backbone.weights}


@pytest.mark.once
def test_the_vision_tower_is_frozen(rng, tmp_path):
    """As published: its projector is trained, it is not; and again after reloading."""
    backbone = tiny_backbone(dataclasses.replace(SMALL_CONFIG, vision=VISION))
    before, after = one_step(backbone, rng)
    changed = {path for path in before if (before[path] != after[path]).any()}
    in_vision = {path for path in changed if path.startswith("vision/")}
    assert in_vision == {"vision/projector/norm/scale", "vision/projector/projection/kernel"}
    backbone.vision.tower.trainable = True
    backbone.save(tmp_path / "model.keras")
    revived = keras.saving.load_model(tmp_path / "model.keras")
    assert not revived.vision.tower.trainable and revived.vision.projector.trainable


@pytest.mark.once
def test_features_of_images_stand_for_them(model, rng, monkeypatch):
    """With what the tower makes of images as an input, it does not run."""
    inputs = token_inputs(rng, (13, 17), (9, 3), images=2)
    want = outputs_of(model, inputs)
    flat = inputs.pop("images").reshape(-1, 28, 28, 3)
    tower = model.vision.tower
    features = keras.Sequential([keras.Input((28, 28, 3)), tower]).predict_on_batch(flat)
    inputs["image_features"] = ops.convert_to_numpy(features).reshape(2, 2, 4, 24)
    assert_rows_equal(outputs_of(model, inputs), want, inputs)

    other = tiny_backbone()
    monkeypatch.setattr(other.vision.tower, "call", None)
    assert_rows_equal(outputs_of(other, inputs), want, inputs)
    inputs["image_features"] = np.zeros((2, 2, 4, 23), "float32")
    with pytest.raises(ValueError, match=r"images, 4, 24\). Received: shape \(2, 2, 4, 23\)"):
        model.complete(inputs)


def test_randomize_gives_the_same_model_twice():
    one, two = tiny_backbone(TEXT_CONFIG), T5Gemma2Backbone(TEXT_CONFIG)
    randomize(two)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(numpy32(a), numpy32(b))
