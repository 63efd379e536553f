"""The vision tower: patches, averages of cells, and where its features go in the text."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiny_models import CONFIG, IMAGE, VISION, randomize, tiny_backbone
from tolerances import TOLERANCE

from keras_t5gemma2.model.vision import (
    PatchEmbedding,
    Projector,
    Vision,
    VisionTower,
    fill_image_tokens,
)


def tensor(rng, *shape):
    return ops.convert_to_tensor(rng.standard_normal(shape, "float32"))


def vision():
    layer = Vision(CONFIG)
    layer.build(None)
    randomize(layer)
    return layer


def test_nothing_is_differentiated_through_the_frozen_tower(monkeypatch):
    """Its output is a constant to the gradient as long as nothing of it is to be trained."""
    backbone = tiny_backbone()
    tower = backbone.vision.tower
    weight = tower.position_embedding
    monkeypatch.setattr(tower, "call", lambda images, training: ops.expand_dims(weight[:4], 0))
    constants = []
    monkeypatch.setattr(ops, "stop_gradient", lambda x: constants.append(x) or x)
    images = ops.zeros((1, 1, 28, 28, 3))
    frozen = backbone.vision.features(images, training=True)
    assert len(constants) == 1
    # On torch a graph of the backward pass would hang on it.
    assert not getattr(frozen, "requires_grad", False)
    tower.trainable = True
    trained = backbone.vision.features(images, training=True)
    assert len(constants) == 1
    assert getattr(trained, "requires_grad", True)


@pytest.mark.once
def test_features_fill_the_image_tokens_of_their_own_row_in_order():
    features = ops.reshape(ops.arange(1, 9, dtype="float32"), (2, 2, 2)) * 10
    x = ops.reshape(ops.arange(16, dtype="float32"), (2, 4, 2))
    is_image = ops.convert_to_tensor([[False, True, False, True], [True, True, True, False]])
    got = ops.convert_to_numpy(fill_image_tokens(features, x, is_image))
    assert got.tolist() == [
        [[0, 1], [10, 20], [4, 5], [30, 40]],
        # The third image token has no feature left, and keeps its embedding.
        [[50, 60], [70, 80], [12, 13], [14, 15]],
    ]


@pytest.mark.once
def test_no_features_fill_nothing_and_dtypes_stay():
    x, none = ops.ones((2, 3, 4), "bfloat16"), ops.zeros((2, 0, 4))
    got = fill_image_tokens(none, x, ops.ones((2, 3), "bool"))
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert float(ops.sum(ops.cast(got, "float32"))) == 24.0


@pytest.mark.once
@pytest.mark.parametrize("size", [28, 30])
def test_patches_are_those_of_a_convolution(rng, size):
    """Pixels beyond the last whole patch are left out."""
    same = {"kernel_size": 7, "strides": 7, "data_format": "channels_last"}
    patches, convolution = PatchEmbedding(5, **same), layers.Conv2D(5, **same)
    images = tensor(rng, 2, size, size, 3)
    for layer in (patches, convolution):
        layer.build(images.shape)
        randomize(layer)
    convolution.set_weights(patches.get_weights())
    got, want = (ops.convert_to_numpy(layer(images)) for layer in (patches, convolution))
    assert got.shape == (2, 4, 4, 5)
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])
    assert patches(images[:0]).shape == (0, 4, 4, 5)


@pytest.mark.once
def test_a_token_is_the_mean_of_a_square_cell_of_patches():
    tower = VisionTower(VISION)
    # 4 x 4 patches in row-major order; cells of 2 x 2.
    patches = ops.broadcast_to(
        ops.reshape(ops.arange(16, dtype="float32"), (1, 16, 1)), (1, 16, 24)
    )
    got = ops.convert_to_numpy(tower._average(patches))
    assert got[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.once
def test_features_of_an_image_hang_on_no_other(rng):
    layer = vision()
    images = tensor(rng, 2, 2, 28, 28, 3)
    whole = ops.convert_to_numpy(layer.features(images))
    assert whole.shape == (2, 2, 4, 24)
    alone = ops.convert_to_numpy(layer.features(images[1:, :1]))
    np.testing.assert_allclose(alone[0, 0], whole[1, 0], **TOLERANCE["float32"])


@pytest.mark.once
def test_features_stand_for_images_beside_others(rng):
    """Those of a row come first, wherever they were computed."""
    layer = vision()
    x, images = tensor(rng, 1, 9, 28), tensor(rng, 1, 2, 28, 28, 3)
    ids = np.full((1, 9), IMAGE, "int32")
    want = ops.convert_to_numpy(layer(x, ids, images))
    features = layer.features(images)
    got = ops.convert_to_numpy(layer(x, ids, None, features))
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])
    mixed = ops.convert_to_numpy(layer(x, ids, images[:, :1], features[:, 1:]))
    np.testing.assert_allclose(mixed, want, **TOLERANCE["float32"])
    np.testing.assert_array_equal(want[:, 8], ops.convert_to_numpy(x)[:, 8])
    np.testing.assert_array_equal(layer(x, ids, images[:, :0]), x)


@pytest.mark.once
def test_a_tower_that_was_frozen_itself_stays_frozen():
    layer = vision()
    layer.tower.trainable = False
    layer.trainable = False
    layer.trainable = True
    assert layer.projector.trainable and not layer.tower.trainable
    layer.tower.trainable = True
    layer.trainable = False
    assert not layer.tower.trainable
    layer.trainable = True
    assert layer.tower.trainable


@pytest.mark.once
def test_the_projector_norms_and_projects(rng):
    config = dataclasses.replace(VISION, norm_epsilon=1e-6)
    projector = Projector(config, hidden_dim=5)
    projector.build(None)
    randomize(projector)
    features = tensor(rng, 2, 4, 24)
    want = ops.matmul(projector.norm(features), projector.projection.kernel)
    got = projector(features * 100.0)  # whose size the norm takes away
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(x) for x in (got, want)), **TOLERANCE["float32"]
    )
    assert not projector.projection.use_bias
