"""The inputs of a backbone: what is made symbolic, and what is filled in."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import CONFIG, TEXT_CONFIG, VISION, token_inputs

from keras_t5gemma2.model.inputs import completed, completed_spec, symbolic_inputs

pytestmark = pytest.mark.once
TEXT = [
    f"{side}_{what}" for side in ("encoder", "decoder") for what in ("token_ids", "padding_mask")
]


def test_images_are_inputs_where_there_is_a_tower():
    assert list(symbolic_inputs(TEXT_CONFIG)) == TEXT
    inputs = symbolic_inputs(CONFIG)
    assert list(inputs) == [*TEXT, "images", "image_features"]
    assert inputs["images"].shape == (None, None, 28, 28, 3)
    assert inputs["image_features"].shape == (None, None, None, None)
    assert {inputs[name].dtype for name in TEXT} == {"int32"}


def test_images_that_are_missing_or_none_are_none_of_each_row(rng):
    given = {**token_inputs(rng, (3, 2), (2, 2)), "images": None}
    got = completed(given, VISION)
    assert {name: tuple(got[name].shape) for name in ("images", "image_features")} == {
        "images": (2, 0, 28, 28, 3),
        "image_features": (2, 0, 4, 24),
    }
    assert all(ops.is_tensor(x) for x in got.values())
    np.testing.assert_array_equal(got["encoder_token_ids"], given["encoder_token_ids"])
    assert "images" not in completed(given, None)


def test_images_that_are_there_stay(rng):
    given = token_inputs(rng, (9, 9), (2, 2), images=1)
    got = completed(given, VISION)
    np.testing.assert_array_equal(got["images"], given["images"])
    assert got["image_features"].shape[1] == 0


def test_features_of_another_tower_are_refused(rng):
    given = {**token_inputs(rng, (3,), (2,)), "image_features": np.zeros((1, 1, 4, 23), "float32")}
    with pytest.raises(ValueError, match=r"images, 4, 24\). Received: shape \(1, 1, 4, 23\)"):
        completed(given, VISION)


@pytest.mark.parametrize(
    "inputs", [[1, 2], {"images": 3}, {"encoder_token_ids": "the cat"}], ids=str
)
def test_what_is_no_inputs_is_left_to_keras_and_its_message(inputs):
    assert completed(inputs, VISION) is inputs


def test_symbolic_inputs_are_completed_by_none_and_in_a_spec_by_no_images():
    given = {name: keras.KerasTensor((3, 5), "int32") for name in TEXT}
    assert completed(given, VISION) == {**given, "images": None, "image_features": None}
    spec = completed_spec(given, VISION)
    assert spec["images"].shape == (3, 0, 28, 28, 3)
    assert spec["image_features"].shape == (3, 0, 4, 24)
