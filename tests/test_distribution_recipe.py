"""The recipe for a distribution: what it chooses, and what it says of it."""

import keras
import numpy as np
import pytest
from tiny_models import TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import distribution

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)


@pytest.fixture
def no_distribution():
    yield
    keras.distribution.set_distribution(None)


def test_the_recipe_says_what_it_chose(no_distribution, capsys):
    chosen = distribution.distribute(TEXT_CONFIG, model_parallel=2, fsdp=True)
    said = capsys.readouterr().out
    assert "8 cpu devices: rows over 4, weights over 2 and, by their width, over the 4" in said
    assert "attention/key/kernel" in said  # three heads
    backbone = tiny_backbone(TEXT_CONFIG)
    share = distribution.bytes_per_device(backbone, chosen)
    assert f"Weights: {share / 1e6:,.1f} MB on each device" in said
    assert keras.distribution.distribution() is chosen


def test_the_recipe_without_a_model(no_distribution, capsys):
    distribution.distribute(context_parallel=True)
    said = capsys.readouterr().out
    assert said.startswith("8 cpu devices: rows over 8, weights over 1\n")
    assert "tokens of a single row are spread over 8" in said


@pytest.mark.parametrize(
    "memory, parts, fsdp", [(None, 1, False), (2.1, 1, False), (1.9, 2, False), (0.5, 2, True)]
)
def test_the_recipe_goes_by_memory(no_distribution, monkeypatch, memory, parts, fsdp):
    """`memory` of a device, in sizes of the model. Of its six heads only two parts can be made."""
    backbone = tiny_backbone(TEXT_CONFIG)
    size = sum(4 * int(np.prod(v.shape)) for v in backbone.weights)
    monkeypatch.setattr(distribution, "device_memory", lambda _: memory and memory * size)
    chosen = distribution.distribute(TEXT_CONFIG, verbose=False)
    assert chosen.device_mesh.shape == (8 // parts, parts)
    axes = chosen.get_tensor_layout("encoder/layer_0/mlp/up/kernel").axes
    assert axes == ("batch" if fsdp else None, "model")


def test_wrong_numbers_of_parts(no_distribution):
    for number in (3, 0, 2.0):
        with pytest.raises(ValueError, match=f"which is 8. Received: model_parallel={number}"):
            distribution.distribute(model_parallel=number)
    assert keras.distribution.distribution() is None
