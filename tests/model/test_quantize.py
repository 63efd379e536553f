"""Quantized weights: all that a task does, it does as the same weights in floats would."""

import keras
import numpy as np
import pytest
from quantized_tasks import WAYS, in_floats, matrices, modes, num_bytes, quantized_task
from tasks import SMALL_ROWS, small_task, tiny_task
from tolerances import TOLERANCE

# All ways on one backend, on the others those that differ in what is computed.
_ONCE = [pytest.param(way, marks=pytest.mark.once) for way in WAYS if way != "int8"]


@pytest.fixture(scope="module", params=["int8", *_ONCE])
def pair(request):
    lm = quantized_task(request.param)
    return lm, in_floats(lm)


@pytest.mark.compiled
def test_logits(pair):
    lm, floats = pair
    got, wanted = lm.predict(SMALL_ROWS, verbose=0), floats.predict(SMALL_ROWS, verbose=0)
    np.testing.assert_allclose(got, wanted, **TOLERANCE["float32"])
    assert np.abs(got - small_task().predict(SMALL_ROWS, verbose=0)).max() > 1e-3


@pytest.mark.once
def test_the_loss_which_forms_no_logits(pair):
    lm, floats = pair
    got, wanted = lm.evaluate(SMALL_ROWS, verbose=0), floats.evaluate(SMALL_ROWS, verbose=0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.compiled
# Of few rows, 8 bits have a product of their own on each backend.
@pytest.mark.parametrize(
    "pair",
    [w if w in ("int8", "blocks of 8") else pytest.param(w, marks=pytest.mark.once) for w in WAYS],
    indirect=True,
)
@pytest.mark.parametrize("cache", ["shared", pytest.param("projected", marks=pytest.mark.once)])
def test_generation(pair, cache):
    """Whose steps do without what Keras does around each call."""
    rows = {"encoder_text": SMALL_ROWS["encoder_text"]}
    texts = [
        task.generate(rows, max_new_tokens=6, cross_attention_cache=cache, stop_token_ids=None)
        for task in pair
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) == 2


@pytest.mark.once
def test_streaming(pair):
    pieces = ["".join(task.stream("the cat", max_new_tokens=4)) for task in pair]
    assert pieces[0] == pieces[1] != ""


@pytest.mark.once
def test_a_training_step(pair):
    """What is not quantized is trained, by gradients through what is."""
    losses = []
    for task in pair:
        for layer in matrices(task.backbone):
            for variable in layer.weights:
                variable.trainable = False
        task.compile(optimizer=keras.optimizers.SGD(0.1))
        batch = task.preprocess_samples(SMALL_ROWS)
        steps = [task.train_on_batch(*batch, return_dict=True)["loss"] for _ in range(2)]
        losses.append(steps)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][1] < losses[0][0] - 1e-3


@pytest.mark.once
def test_what_is_quantized():
    """Both stacks and the table; neither norms nor the vision tower."""
    lm = tiny_task()
    before = num_bytes(lm)
    lm.quantize("int8")
    found = modes(lm.backbone)
    assert {path for path, mode in found.items() if mode is None} == {
        path for path in found if path.startswith("vision/")
    }
    assert found["embedder/table"] == found["decoder/layer_1/mlp/down"] == "int8"
    kinds = {weight.path: weight.dtype for weight in lm.weights}
    assert kinds["encoder/layer_0/attention/query/kernel"] == "int8"
    assert kinds["encoder/layer_0/attention_norm/scale"] == "float32"
    assert kinds["vision/projector/projection/kernel"] == "float32"
    assert num_bytes(lm) < 0.5 * before
    assert lm.generate("the cat", max_new_tokens=2)


@pytest.mark.once
def test_some_layers_and_then_others():
    lm = tiny_task()
    lm.quantize("int4", filters=["mlp/(up|down)$", "^decoder/.*/value"])
    found = modes(lm.backbone)
    chosen = [path for path, mode in found.items() if mode == "int4"]
    assert len(chosen) == 2 * 5 + 2 and "decoder/layer_0/attention/value" in chosen
    lm.quantize("int8", filters=lambda layer: layer.path == "vision/tower/layer_0/up")
    lm.quantize("int8", filters="^vision/.*/query")
    lm.quantize("int8")
    found = modes(lm.backbone)
    assert [path for path, mode in found.items() if mode == "int4"] == chosen
    eight = [path for path, mode in found.items() if mode == "int8" and path.startswith("vision")]
    assert sorted(eight) == [
        "vision/tower/layer_0/query",
        "vision/tower/layer_0/up",
        "vision/tower/layer_1/query",
    ]
    assert found["embedder/table"] == "int8"


@pytest.mark.once
def test_a_vision_tower_of_integers():
    lm = tiny_task()
    image = np.random.default_rng(0).uniform(0, 255, size=(28, 28, 3)).astype("uint8")
    rows = {"encoder_text": ["<start_of_image> the cat"], "images": [image], "decoder_text": ["a"]}
    before = lm.predict(rows, verbose=0)
    lm.quantize("int8", filters="vision/")
    assert {mode for path, mode in modes(lm.backbone).items() if path[:6] == "vision"} == {"int8"}
    np.testing.assert_allclose(lm.predict(rows, verbose=0), before, atol=0.2)


@pytest.mark.once
def test_inputs_that_are_rounded_too():
    lm = small_task()
    wanted = lm.predict(SMALL_ROWS, verbose=0)
    lm.quantize(keras.quantizers.Int8QuantizationConfig())
    assert lm.backbone.rounds_activations
    got = lm.predict(SMALL_ROWS, verbose=0)
    assert 1e-4 < np.abs(got - wanted).max() < 0.3
    assert np.abs(got - in_floats(lm).predict(SMALL_ROWS, verbose=0)).max() > 1e-4


@pytest.mark.once
def test_half_precision():
    lm = quantized_task("int4", dtype="bfloat16")
    kinds = {weight.dtype for weight in lm.weights}
    assert kinds == {"bfloat16", "int8", "float32"}  # float32: the numbers of blocks
    tasks = lm, in_floats(lm, dtype="bfloat16")
    got, wanted = (task.predict(SMALL_ROWS, verbose=0).astype("float32") for task in tasks)
    np.testing.assert_allclose(got, wanted, **TOLERANCE["bfloat16"])


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must have a `mode`, unless `prepare_qat` has been called"),
        ({"mode": "int2"}, "mode='int2'"),
        ({"mode": "float8"}, "mode='float8'"),
        ({"mode": "int8", "config": WAYS["blocks of 8"]}, "mode='int8', config=<"),
        ({"mode": "int8", "filters": "attn"}, "filters='attn', which matches none"),
        ({"mode": "int8", "filters": "up("}, r"filters='up\('"),
        ({"mode": "int8", "filters": 3}, "filters=3"),
        (
            {"mode": keras.quantizers.Int8QuantizationConfig(keras.quantizers.AbsMaxQuantizer(0))},
            "weight_quantizer=<.*AbsMax",
        ),
    ],
)
def test_what_cannot_be_quantized(arguments, message):
    lm = small_task()
    with pytest.raises(ValueError, match=message):
        lm.quantize(**arguments)
    assert set(modes(lm.backbone).values()) == {None}


@pytest.mark.once
def test_what_is_quantized_already():
    lm = quantized_task("int8")
    with pytest.raises(ValueError, match="embedder/table, which is int8 already"):
        lm.quantize("int4")
    lm = small_task()
    lm.quantize("int8", filters="embedder")
    with pytest.raises(ValueError, match="embedder/table, quantized before, which does not round"):
        lm.quantize(keras.quantizers.Int8QuantizationConfig())


@pytest.mark.once
def test_compiled_functions_are_made_anew():
    lm = small_task(learning_rate=0.0)
    before = lm.predict(SMALL_ROWS, verbose=0), lm.evaluate(SMALL_ROWS, verbose=0)[0]
    lm.generate("the cat", max_new_tokens=2)
    lm.fit(SMALL_ROWS, verbose=0)
    assert lm.optimizer.built
    lm.quantize("int4")
    assert lm.generate_function is None and not lm.optimizer.built
    assert np.abs(lm.predict(SMALL_ROWS, verbose=0) - before[0]).max() > 1e-3
    assert abs(lm.evaluate(SMALL_ROWS, verbose=0)[0] - before[1]) > 1e-5
