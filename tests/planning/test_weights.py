"""Weights of models that are not built: their sizes, what trains, what one device has."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, tiny_backbone

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, presets
from keras_t5gemma2.planning.plan import plan
from keras_t5gemma2.planning.weights import Weight, config_of, published_models, shares, weights_of
from keras_t5gemma2.planning.work import Work

pytestmark = pytest.mark.once


def num_bytes(variables):
    return sum(
        int(np.prod(v.shape)) * np.dtype(keras.backend.standardize_dtype(v.dtype)).itemsize
        for v in variables
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if "270m" in name or "tiny" in name else pytest.mark.slow)
        for name in published_models()
    ],
)
def test_weights_of_the_published_models(name):
    assert plan(name, Work()).weights == 2 * presets[name]["metadata"]["params"]
    assert plan(name, Work(dtype="mixed_bfloat16")).weights == 2 * plan(name, Work()).weights


@pytest.mark.parametrize("mode", ["fit", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_what_the_optimizer_keeps(mode, dtype):
    work = Work(mode, dtype=dtype, rank=3)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(CONFIG, dtype=dtype))
    if mode == "lora":
        lm.enable_lora(3)
    found = plan(CONFIG, work)
    assert found.weights == num_bytes(lm.weights)
    assert found.gradients == num_bytes(lm.trainable_variables) < found.weights
    for optimizer in (
        "adam",
        "adafactor",
        keras.optimizers.SGD(momentum=0.9),
        keras.optimizers.AdamW(use_ema=True, gradient_accumulation_steps=2),
    ):
        lm.compile(optimizer=keras.optimizers.get(optimizer))
        others = len(lm.optimizer.variables)
        lm.optimizer.build(lm.trainable_variables)
        want = num_bytes(lm.optimizer.variables[others:])
        got = plan(CONFIG, dataclasses.replace(work, optimizer=optimizer)).optimizer
        # Of each weight that Adafactor does not factor it keeps a number or two.
        assert abs(got - want) <= (16 * len(lm.weights) if optimizer == "adafactor" else 0)


@pytest.mark.slow
def test_weights_are_shared_out_as_the_map_of_layouts_says():
    """Gradients, optimizer and adapters as the weights that they belong to."""

    def of(mode, mesh, fsdp=False):
        return plan("t5gemma2_4b_4b", Work(mode, mesh=mesh, fsdp=fsdp), text_only=True)

    whole, spread = of("fit", (1, 1)), of("fit", (2, 4), fsdp=True)
    for part in ("weights", "gradients", "optimizer"):
        assert 7.9 < getattr(whole, part) / getattr(spread, part) < 8.0
    # Of an adapter's two weights, one axis each is the kernel's, which one axis of the mesh cuts.
    whole, spread = of("lora", (1, 1)), of("lora", (2, 4), fsdp=True)
    assert 2 < whole.gradients / spread.gradients < 4
    assert spread.optimizer == 2 * spread.gradients
    config = config_of("t5gemma2_270m_270m", text_only=True)
    # The one key-value head is not cut.
    keys = sum(2 * a.head_dim * 640 * 2 for s in (config.encoder, config.decoder) for a in s.layers)
    whole, spread = (plan(config, Work(mesh=(1, n))).weights for n in (1, 4))
    assert spread > whole / 4 + keys * 3 / 4 and spread < whole / 4 + keys


@pytest.mark.parametrize(
    ("optimizer", "count"),
    [
        ("adam", 2 * 15),
        (keras.optimizers.SGD(0.1), 0),
        (keras.optimizers.SGD(0.1, momentum=0.9), 15),
        (keras.optimizers.AdamW(use_ema=True), 3 * 15),
        ("adafactor", 3 + 5 + 15),  # of rows, of columns, and what it makes of a matrix at last
    ],
    ids=["adam", "sgd", "momentum", "averages", "adafactor"],
)
def test_bytes_of_a_weight_and_of_its_optimizer(optimizer, count):
    weight = Weight("a/kernel", (3, 5), "bfloat16", True)
    assert weight.num_bytes == 30
    assert weight.num_bytes_of_slots(optimizer) == 2 * count
    assert Weight("a", (), "float32", True).num_bytes == 4


def test_a_model_is_named_in_any_way():
    assert config_of(CONFIG) is CONFIG
    assert config_of(CONFIG, text_only=True).vision is None
    tiny = config_of("t5gemma2_tiny")
    assert tiny == config_of(presets["t5gemma2_tiny"]["directory"])
    assert config_of("t5gemma2_270m_270m").encoder.hidden_dim == 640


def test_adapters_stand_beside_frozen_kernels():
    weights = weights_of(CONFIG, Work("lora", rank=3))
    own = {weight.path: weight for weight in weights if weight.kernel is None}
    adapters = [weight for weight in weights if weight.kernel is not None]
    assert not any(weight.is_trainable for weight in own.values())
    assert len(adapters) == 2 * 7 * 5 and all(weight.is_trainable for weight in adapters)
    one, other = (w for w in adapters if w.path.startswith("decoder/layer_1/mlp/down/"))
    assert (one.shape, other.shape) == ((36, 3), (3, 28))
    assert {one.dtype, other.dtype} == {"float32"}
    assert one.kernel.path == other.kernel.path == "decoder/layer_1/mlp/down/kernel"
    assert one.kernel.path in own


def test_a_device_alone_has_all_and_a_share_is_rounded_up():
    kernel = Weight("encoder/layer_0/mlp/up/kernel", (28, 44), "float32", True)
    norm = Weight("encoder/norm/scale", (28,), "float32", True)
    adapter = Weight("encoder/layer_0/mlp/up/default_lora_b", (2, 44), "float32", True, kernel)
    alone, two, all_of_them = (
        shares(CONFIG, Work(mesh=mesh, fsdp=fsdp))
        for mesh, fsdp in (((8, 1), False), ((1, 4), False), ((2, 4), True))
    )
    assert [share(kernel, 101) for share in (alone, two, all_of_them)] == [101, 26, 13]
    assert [share(norm, 101) for share in (alone, two, all_of_them)] == [101] * 3
    assert [share(adapter, 101) for share in (alone, two, all_of_them)] == [101, 26, 26]
