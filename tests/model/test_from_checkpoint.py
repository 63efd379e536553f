"""A backbone of what any format gives: settings, weights, and what is checked before them."""

import types

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import END_OF_IMAGE, SMALL_CONFIG, tiny_backbone

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.model.from_checkpoint import load_backbone

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def values():
    backbone = tiny_backbone(SMALL_CONFIG)
    return {weight.path: ops.convert_to_numpy(weight) for weight in backbone.weights}


def checkpoint(values=None, **changes):
    """What `load_backbone` needs of a `Checkpoint`."""

    def tensors():
        assert values is not None, "no weights were asked for"
        return {
            path: StoredTensor(path, array.shape, lambda array=array: array.copy())
            for path, array in values.items()
        }

    given = {
        "config": SMALL_CONFIG,
        "settings": {},
        "source": "somebody/model",
        "origin": "config.json",
        "tensors": tensors,
        "end_of_image_is_in_table": False,
    }
    return types.SimpleNamespace(**{**given, **changes})


def test_weights_are_those_of_the_checkpoint_and_known_to_derive_from_it(values):
    backbone = load_backbone(T5Gemma2Backbone, checkpoint(values), dtype="bfloat16", name="mine")
    assert (backbone.name, backbone.source) == ("mine", "somebody/model")
    assert backbone.dtype_policy.name == "bfloat16"
    for weight in backbone.weights:
        want = ops.cast(values[weight.path], "bfloat16")
        np.testing.assert_array_equal(
            *(ops.convert_to_numpy(ops.cast(x, "float32")) for x in (weight, want))
        )


def test_without_weights_none_are_read_and_nothing_is_derived_from():
    backbone = load_backbone(T5Gemma2Backbone, checkpoint(), load_weights=False)
    assert backbone.source is None
    assert np.std(ops.convert_to_numpy(backbone.token_embedding.embeddings)) > 0.01


def test_arguments_go_before_what_the_checkpoint_says(values):
    kept = checkpoint(values, settings={"name": "of_the_file", "trainable": False})
    backbone = load_backbone(T5Gemma2Backbone, kept, name="mine", source="me")
    assert (backbone.name, backbone.source, backbone.trainable) == ("mine", "me", False)


def test_an_end_of_image_in_the_table_gets_the_scaled_vector_that_it_has_there(values):
    read = checkpoint(values, end_of_image_is_in_table=True)
    backbone = load_backbone(T5Gemma2Backbone, read)
    want = values["embedder/table/embeddings"][END_OF_IMAGE] * 28**0.5
    got = ops.convert_to_numpy(backbone.embedder.end_of_image)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    ids = np.array([[END_OF_IMAGE]])
    np.testing.assert_allclose(ops.convert_to_numpy(backbone.embedder(ids))[0, 0], want, rtol=1e-6)


def test_a_quantized_preset_is_not_quantized_again(values):
    read = checkpoint(values, settings={"quantized_layers": {"decoder/layer_0/mlp/up": "int4"}})
    with pytest.raises(ValueError, match="config.json, whose decoder/layer_0/mlp/up is int4"):
        load_backbone(T5Gemma2Backbone, read, quantize="int8")


def test_a_dtype_that_keras_does_not_know_is_one_short_error():
    with pytest.raises(ValueError) as error:
        load_backbone(T5Gemma2Backbone, checkpoint(), load_weights=False, dtype="float17")
    assert "float17" in str(error.value) and len(str(error.value)) < 500
    assert keras.config.dtype_policy().name == "float32"
