"""Models on a mesh of eight devices: what a device holds, and the results of one."""

import dataclasses
import functools
import math
import re

import keras
import numpy as np
import pytest
from keras import ops
from meshes import bytes_on_devices, distributed, distributed_not_at_all
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import CONFIG as WITH_VISION
from tiny_models import LOCAL, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import linear_cross_entropy

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)

# Eight heads and four of keys and values; the width of no MLP is a multiple of eight.
EVEN = dataclasses.replace(LOCAL, num_heads=8, num_kv_heads=4, head_dim=6)
EVEN_CONFIG = dataclasses.replace(
    ONE_LAYER,
    encoder=dataclasses.replace(ONE_LAYER.encoder, layers=(EVEN,), mlp_dim=44),
    decoder=dataclasses.replace(ONE_LAYER.decoder, layers=(EVEN,), mlp_dim=36),
    vocabulary_size=ONE_LAYER.vocabulary_size + -ONE_LAYER.vocabulary_size % 4,
)


MESHES = {
    "rows": ((8, 1), {}),
    "both": ((2, 4), {}),
    "fsdp": ((4, 2), {"fsdp": True}),
}


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def meshes(**defaults):
    """Each value on each mesh; those that are not its default are slow."""
    (name, values), *_ = defaults.items()
    pairs = [
        pytest.param(mesh, value, marks=[] if mesh == default else pytest.mark.slow)
        for value, default in values.items()
        for mesh in MESHES
    ]
    return pytest.mark.parametrize(f"mesh, {name}", pairs, indirect=["mesh"])


@pytest.fixture
def mesh(request):
    shape, kwargs = MESHES[request.param]
    with distributed(*shape, **kwargs) as distribution:
        yield distribution


@pytest.fixture(scope="module")
def image_inputs():
    rng = np.random.default_rng(0)
    return token_inputs(rng, [9, 6, 7, 9, 8, 6, 9, 7], [4, 5, 3, 2, 5, 5, 4, 1], images=1)


@pytest.fixture(scope="module")
def expected_outputs(image_inputs):
    backbone = tiny_backbone(WITH_VISION)
    return backbone.predict_on_batch(backbone.complete(image_inputs))


@pytest.mark.parametrize("mesh", [*map(slow, ("rows", "both")), "fsdp"], indirect=True)
def test_forward(mesh, image_inputs, expected_outputs):
    backbone = tiny_backbone(WITH_VISION)
    outputs = backbone.predict_on_batch(backbone.complete(image_inputs))
    for name, expected in expected_outputs.items():
        mask = image_inputs[name.replace("sequence_output", "padding_mask")].astype(bool)
        got = ops.convert_to_numpy(outputs[name])
        np.testing.assert_allclose(got[mask], expected[mask], **TOLERANCE["float32"])


def trained(use_lora):
    """Losses, weights and task after steps of Adam on batches of 8 and of 3 rows."""
    keras.utils.set_random_seed(0)
    lm = small_task(EVEN_CONFIG)
    if use_lora:
        lm.enable_lora(4, target="text")
    lm.compile(optimizer=keras.optimizers.Adam(0.01), sampler="greedy")
    rows = {name: (texts * 6)[:11] for name, texts in SMALL_ROWS.items()}
    history = lm.fit(rows, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    del history["tokens_per_second"]
    weights = {v.path: ops.convert_to_numpy(v) for v in lm.weights}
    return history, weights, lm


@functools.cache
def expected_training(use_lora):
    with distributed_not_at_all():
        return trained(use_lora)[:2]


@meshes(use_lora={False: None, True: "both"})
def test_fit(mesh, use_lora):
    """Also of a last batch that the devices cannot divide."""
    history, weights, lm = trained(use_lora)
    expected_history, expected_weights = expected_training(use_lora)
    for name, expected in expected_history.items():
        np.testing.assert_allclose(history[name], expected, **TOLERANCE["float32"])
    for path, expected in expected_weights.items():
        # Adam divides by the size of a gradient: what is 0 but for rounding gets any direction.
        np.testing.assert_allclose(weights[path], expected, rtol=1e-4, atol=1e-4, err_msg=path)
    check_bytes(lm, mesh)


def check_bytes(lm, distribution):
    """Each device holds its part of every weight and of both averages of Adam, no more."""
    rows, parts = distribution.device_mesh.shape
    fsdp = distribution.get_tensor_layout("decoder/layer_0/mlp/up/kernel").axes[0] == "batch"
    for variables, copies in ((lm.weights, 1), (lm.trainable_weights, 2)):
        total = 0
        for variable in variables:
            total += 4 * math.prod(variable.shape) // _divisor(variable, rows, parts, fsdp)
        held = variables if copies == 1 else lm.optimizer.variables[2:]
        assert len(held) == copies * len(variables)
        assert set(bytes_on_devices(held).values()) == {copies * total}
        assert len(bytes_on_devices(held)) == 8


def _divisor(variable, rows, parts, fsdp):
    """By how many devices a weight of `EVEN_CONFIG` is shared, worked out by hand."""
    path, rank = variable.path, len(variable.shape)
    if rank != 2:
        return 1
    rows = rows if fsdp and rows == 4 else 1  # the width is 28
    if path.endswith(("lora_a", "lora_b")):
        is_output = path.split("/")[-2] in ("output", "down")
        is_split = path.endswith("lora_a") == is_output
        return parts if is_split else rows
    return rows * parts


@functools.cache
def expected_texts(sampler):
    with distributed_not_at_all():
        return generated(sampler)


def generated(sampler):
    lm = small_task(EVEN_CONFIG)
    lm.compile(sampler=sampler)
    three = {name: (texts * 2)[:3] for name, texts in SMALL_ROWS.items()}
    one = {name: texts[1] for name, texts in SMALL_ROWS.items()}
    options = {"max_new_tokens": 6, "stop_token_ids": None}
    return [lm.generate(rows, **options) for rows in (three, one)]


@meshes(sampler={"greedy": None, "beam": "fsdp"})
def test_generate(mesh, sampler):
    """Of three rows, and of one alone."""
    assert generated(sampler) == expected_texts(sampler)


def test_the_loss_moves_neither_the_table_nor_logits():
    """Of a table split by its vocabulary, devices exchange what they have summed up, no more."""
    import jax

    rows, length, width, size = 8, 64, 48, 1024
    with distributed(2, 4) as distribution:
        layouts = [("batch", None, None), ("model", None), ("batch", None), ("batch", None)]
        shapes = [(rows, length, width), (size, width), (rows, length), (rows, length)]
        dtypes = ["float32", "float32", "int32", "float32"]
        arguments = []
        for layout, shape, dtype in zip(layouts, shapes, dtypes, strict=True):
            layout = keras.distribution.TensorLayout(layout, distribution.device_mesh)
            sharding = layout.backend_layout
            arguments.append(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))

        def loss(*arguments):
            sums = linear_cross_entropy(*arguments, chunk_size=16)
            return sums.loss, sums.correct

        step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        program = step.lower(*arguments).compile().as_text()
    moved = re.findall(r"= ([^=]*?) (all-[a-z]+|collective-permute)\(", program)
    sizes = [
        math.prod(map(int, re.findall("[0-9]+", shape.split("]")[0])[1:])) for shape, _ in moved
    ]
    assert len(sizes) > 3
    # The gradient of the table, once for all chunks; what else is moved is of a chunk's tokens.
    assert sorted(sizes)[-1] == size // 4 * width
    assert sorted(sizes)[-2] <= 16 * width
