"""Where keras-hub's own T5Gemma 2 keeps each weight, against a file that it writes."""

import keras
import numpy as np
import pytest
from keras_hub_models import TOKENIZER, hub_backbone

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.keras_hub.config import config_from_keras_hub
from keras_t5gemma2.checkpoints.keras_hub.names import (
    ENDS_OF_IMAGE,
    TABLES,
    Heads,
    copies,
    is_vision_name,
    rows,
)
from keras_t5gemma2.files.h5 import read_h5
from keras_t5gemma2.model.loading import shapes_only

pytestmark = pytest.mark.once


@pytest.mark.parametrize("vision", [False, True], ids=["text", "vision"])
def test_rows_are_the_arrays_of_the_file_and_the_weights_of_the_model(vision, tmp_path):
    hub = hub_backbone(vision)
    hub.save_weights(tmp_path / "model.weights.h5")
    found = read_h5(tmp_path)
    config = config_from_keras_hub(
        keras.saving.serialize_keras_object(hub), TOKENIZER.image_token_id
    )
    model = shapes_only(lambda: T5Gemma2Backbone(config))
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    table = rows(config)
    assert sorted(row.path for row in table) == sorted(shapes)
    wanted = {
        name: row.layout.from_variable_shape(shapes[row.path])
        for row in table
        for name in copies(row.name)
        if vision or name not in ENDS_OF_IMAGE
    }
    assert {name: tensor.shape for name, tensor in found.items()} == wanted
    of_tower = {row.name for row in table if row.path.startswith("vision/")}
    assert {name for name in found if is_vision_name(name)} == of_tower
    assert bool(of_tower) == vision


def test_heads_are_joined_as_they_are_multiplied(rng):
    x, file = rng.normal(size=5), rng.normal(size=(5, 3, 7))
    layout = Heads(1, 3)
    wanted = np.einsum("i,ihw->hw", x, file).ravel()
    np.testing.assert_allclose(x @ layout.to_variable(file), wanted)
    assert layout.from_variable_shape((5, 21)) == file.shape

    heads, file = rng.normal(size=(3, 7)), rng.normal(size=(3, 7, 5))
    layout = Heads(0, 3)
    wanted = np.einsum("hw,hwo->o", heads, file)
    np.testing.assert_allclose(heads.ravel() @ layout.to_variable(file), wanted)
    assert layout.from_variable_shape((21, 5)) == file.shape


def test_what_the_file_has_twice():
    assert copies(TABLES[0]) == TABLES and copies(ENDS_OF_IMAGE[0]) == ENDS_OF_IMAGE
    assert copies("layers/rms_normalization/vars/0") == ("layers/rms_normalization/vars/0",)
