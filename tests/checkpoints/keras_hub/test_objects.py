"""Objects as Keras reads them."""

import keras
import pytest

from keras_t5gemma2.checkpoints.keras_hub.objects import dtype_object, keras_object

pytestmark = pytest.mark.once


def test_keras_makes_them_again():
    assert keras.saving.deserialize_keras_object(dtype_object("bfloat16")).name == "bfloat16"
    values = keras_object("keras.layers", "keras>Dense", {"units": 3})
    assert values["class_name"] == "Dense"
    assert keras.saving.deserialize_keras_object({**values, "registered_name": None}).units == 3
