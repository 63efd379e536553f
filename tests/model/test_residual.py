"""Half precision: what grows past the range of float16, and one dtype of logits in all policies."""

import contextlib
import dataclasses

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from quantized_tasks import WAYS
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import SMALL_CONFIG, VISION, tiny_backbone, token_inputs

from keras_t5gemma2.model.rotary import Positions
from keras_t5gemma2.model.stacks import encoder_positions

LARGEST = float(np.finfo("float16").max)
ONCE = pytest.mark.once
# On JAX and TensorFlow a policy takes several compiled programs: the others run with `slow`.
POLICIES = (
    "mixed_bfloat16",
    *(pytest.param(n, marks=ONCE) for n in ("float32", "bfloat16", "float16", "mixed_float16")),
)
HALVES = ("float16", pytest.param("mixed_float16", marks=ONCE))
SAMPLERS = {
    "beams": lambda: "beam",
    "contrastive": lambda: keras_hub.samplers.ContrastiveSampler(k=3, alpha=0.3),
}


def enlarge(backbone):
    """Makes sums over layers, what norms add to them and the products of MLPs exceed float16.

    As in the published models every single weight, and every product with weights, is in range.
    """
    for weight in backbone.weights:
        if "output_norm/scale" in weight.path:
            weight.assign(np.full(weight.shape, 4e4))
        elif weight.path.split("/")[-2] in ("gate", "up") and "tower" not in weight.path:
            weight.assign(ops.cast(weight, "float32") * 300.0)
        elif "tower" in weight.path and weight.path.endswith("position_embedding"):
            weight.assign(ops.clip(ops.cast(weight, "float32") * 2e5, -6e4, 6e4))
        elif weight.path.endswith("patch_embedding/kernel"):
            weight.assign(ops.cast(weight, "float32") * 2e3)


def large_task(dtype, quantize=None):
    lm = small_task(dtype="float32")
    enlarge(lm.backbone)
    if quantize:
        lm.quantize(quantize)
    if dtype != "float32":
        other = small_task(dtype=dtype)
        if quantize:
            other.quantize(quantize)
        copy_weights(lm.backbone, other.backbone)
        lm = other
    return lm


def copy_weights(backbone, to):
    values = {weight.path: ops.convert_to_numpy(weight) for weight in backbone.weights}
    for weight in to.weights:
        weight.assign(values[weight.path])


@pytest.fixture(scope="module")
def exact():
    return large_task("float32")


def distance(got, want):
    """The root mean square of the error, in standard deviations of what is wanted."""
    got, want = np.asarray(got, "float32"), np.asarray(want, "float32")
    assert np.isfinite(got).all()
    return np.sqrt(np.mean((got - want) ** 2)) / np.std(want)


def test_the_large_model_is_out_of_the_range_of_float16(exact):
    encoder, block = exact.backbone.encoder, exact.backbone.encoder.blocks[0]
    x = exact.backbone.embedder(np.arange(10, 21)[None])
    at = Positions(encoder_positions(np.ones((1, 11))), encoder.config.layers)
    y, _ = block(x, at=at)
    assert float(ops.max(ops.abs(y))) > LARGEST
    mlp, x = block.mlp, block.mlp_norm(y)
    gate, up = mlp.gate(x), mlp.up(x)
    assert float(ops.max(ops.abs(ops.stack([gate, up])))) < LARGEST / 4
    assert float(ops.max(ops.abs(keras.activations.gelu(gate) * up))) > 2 * LARGEST


@pytest.mark.parametrize("dtype", HALVES)
def test_float16_is_near_float32_where_sums_are_large(exact, dtype):
    lm = large_task(dtype)
    want = exact.predict(SMALL_ROWS, verbose=0)
    assert distance(lm.predict(SMALL_ROWS, verbose=0), want) < 1e-2
    np.testing.assert_allclose(lm.score(SMALL_ROWS), exact.score(SMALL_ROWS), atol=0.05, rtol=5e-3)


@ONCE
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_float16_generates_what_float32_does(exact, dtype):
    lm = large_task(dtype)
    options = {"max_new_tokens": 5, "stop_token_ids": None}
    prompts = {"encoder_text": SMALL_ROWS["encoder_text"]}
    assert lm.generate(prompts, **options) == exact.generate(prompts, **options)
    got, want = (task.evaluate(SMALL_ROWS, verbose=0) for task in (lm, exact))
    np.testing.assert_allclose(got, want, atol=0.02, rtol=5e-3)


@ONCE
def test_float16_from_caches_of_every_kind(exact):
    lm = large_task("float16")
    options = {"max_new_tokens": 5, "stop_token_ids": None}
    prompts = {"encoder_text": SMALL_ROWS["encoder_text"]}
    want = exact.generate(prompts, **options)
    assert lm.generate(prompts, cross_attention_cache="shared", **options) == want
    exact.cache_dtype = lm.cache_dtype = "int8"
    try:
        assert lm.generate(prompts, **options) == exact.generate(prompts, **options)
    finally:
        exact.cache_dtype = "auto"


@ONCE
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_float16_under_samplers_that_keep_more(sampler):
    prompts = {"encoder_text": SMALL_ROWS["encoder_text"]}
    texts = []
    for lm in (large_task("float16"), large_task("float32")):
        lm.compile(sampler=SAMPLERS[sampler]())
        texts.append(lm.generate(prompts, max_new_tokens=4, stop_token_ids=None))
    assert texts[0] == texts[1]


@ONCE
def test_float16_with_an_assistant(exact):
    lm = large_task("float16")
    rows = {"encoder_text": SMALL_ROWS["encoder_text"]}
    options = {"max_new_tokens": 6, "stop_token_ids": None}
    want = lm.generate(rows, **options)
    assert lm.generate(rows, assistant="prompt_lookup", **options) == want


@ONCE
@pytest.mark.parametrize("way", ["blocks of 8", "int4 columns"])
def test_float16_of_integers(way):
    floats, lm = (large_task(dtype, WAYS[way]) for dtype in ("float32", "float16"))
    assert distance(lm.predict(SMALL_ROWS, verbose=0), floats.predict(SMALL_ROWS, verbose=0)) < 1e-2


@ONCE
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_integers_of_8_bits_are_refused_in_float16(dtype):
    lm = small_task(dtype=dtype)
    with pytest.raises(ValueError, match='mode="int8".*Use "int4", or a model of float32'):
        lm.quantize("int8")
    assert lm.backbone.quantized_layers == {}


@ONCE
def test_float16_of_long_inputs(rng, exact):
    """In pieces of an MLP and in blocks of attention."""
    lm = large_task("float16")
    size = ONE_LAYER.vocabulary_size
    ids = rng.integers(10, size, (1, 4096))
    x = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": np.ones_like(ids),
        "decoder_token_ids": ids[:, :3],
        "decoder_padding_mask": np.ones_like(ids[:, :3]),
    }
    got, want = (
        ops.convert_to_numpy(task.backbone.predict_on_batch(x)["encoder_sequence_output"])
        for task in (lm, exact)
    )
    assert distance(got, want) < 1e-2


@pytest.mark.once
def test_float16_of_images(rng):
    config = dataclasses.replace(SMALL_CONFIG, vision=VISION)
    inputs = token_inputs(rng, (13, 8), (3, 9), images=1)
    floats = tiny_backbone(config, "float32")
    enlarge(floats)
    halves = tiny_backbone(config, "float16")
    copy_weights(floats, halves)
    images = inputs["images"].reshape(-1, *inputs["images"].shape[2:])
    tower = floats.vision.tower
    patches = ops.reshape(tower.patch_embedding(images), (len(images), -1, VISION.hidden_dim))
    assert float(ops.max(ops.abs(patches))) < LARGEST
    assert float(ops.max(ops.abs(patches + tower.position_embedding))) > LARGEST
    got, want = (model.predict_on_batch(model.complete(inputs)) for model in (halves, floats))
    seen = inputs["encoder_padding_mask"].astype(bool)
    got, want = (ops.convert_to_numpy(x["encoder_sequence_output"])[seen] for x in (got, want))
    assert distance(got, want) < 1e-2


@ONCE
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_adapters_learn_where_sums_are_large(dtype):
    lm = large_task(dtype)
    lm.enable_lora(rank=4)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2))
    assert isinstance(lm.optimizer, keras.optimizers.LossScaleOptimizer)
    losses = lm.fit(SMALL_ROWS, batch_size=2, epochs=6, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.15
    assert int(lm.optimizer.inner_optimizer.iterations) >= 4


@pytest.mark.once
@pytest.mark.parametrize("dtype", POLICIES)
def test_logits_are_float32_in_every_policy(dtype):
    lm = small_task(dtype=dtype)
    x = lm.backbone.complete(lm.preprocess_samples(SMALL_ROWS)[0])
    logits = lm(x)
    spec = lm.compute_output_spec(
        {name: keras.KerasTensor(v.shape, v.dtype) for name, v in x.items()}
    )
    assert keras.backend.standardize_dtype(logits.dtype) == spec.dtype == "float32"
    assert lm.output.dtype == "float32" and tuple(logits.shape) == tuple(spec.shape)
    predicted = lm.predict(SMALL_ROWS, verbose=0)
    assert predicted.dtype == "float32"
    tolerance = (
        {"rtol": 0.03, "atol": 0.03} if "bfloat16" in dtype else {"rtol": 4e-3, "atol": 4e-3}
    )
    np.testing.assert_allclose(predicted, ops.convert_to_numpy(logits), **tolerance)
    scores = lm.score(SMALL_ROWS)
    assert scores.dtype == "float32" and np.isfinite(scores).all()


@ONCE
@pytest.mark.parametrize("dtype", POLICIES)
def test_fit_and_generate_in_every_policy(dtype):
    lm = small_task(dtype=dtype)
    assert len(lm.generate({"encoder_text": SMALL_ROWS["encoder_text"]}, max_new_tokens=3)) == 2
    # A loss that the user brings takes the logits, our own does without.
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for loss in ("auto", own):
        lm.compile(optimizer=keras.optimizers.SGD(1e-3), loss=loss, weighted_metrics=[])
        is_warned = pytest.warns(UserWarning, match="Weights of float16 are being trained")
        with is_warned if dtype == "float16" else contextlib.nullcontext():
            (value,) = lm.fit(SMALL_ROWS, batch_size=2, verbose=0).history["loss"]
        assert np.isfinite(value)
