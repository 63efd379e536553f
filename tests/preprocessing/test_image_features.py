"""What stands for an image that the tower has seen."""

import pickle

import numpy as np
import pytest

from keras_t5gemma2 import ImageFeatures

pytestmark = pytest.mark.once


def test_they_can_be_pickled(rng):
    image = ImageFeatures(rng.normal(size=(1, 4, 24)).astype("float16"))
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(again.values, image.values)
    assert again.values.dtype == "float16"


def test_they_say_what_they_are_of():
    found = ImageFeatures(np.zeros((3, 4, 24), "float32"))
    assert repr(found) == "ImageFeatures(crops=2, tokens_per_image=4, hidden_dim=24)"


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 24), "float32"), ((1, 4, 24), "int64"), ((0, 4, 24), "float32")]
)
def test_they_are_floats_of_three_axes(shape, dtype):
    with pytest.raises(ValueError, match=rf"{dtype} of shape \({shape[0]}, "):
        ImageFeatures(np.zeros(shape, dtype))
