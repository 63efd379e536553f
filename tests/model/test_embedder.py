"""The embedding table: scaled vectors, and the one of the end of an image that is not."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import END_OF_IMAGE, TEXT_CONFIG, randomize

from keras_t5gemma2.model.embedder import Embedder

pytestmark = pytest.mark.once
WIDTH = TEXT_CONFIG.hidden_dim
IDS = np.array([[11, END_OF_IMAGE, 100], [0, 11, END_OF_IMAGE]], "int32")


def embedder(dtype=None, config=TEXT_CONFIG):
    layer = Embedder(config, dtype=dtype)
    layer.build(None)
    randomize(layer)
    return layer


def test_vectors_are_scaled_but_that_of_the_end_of_an_image():
    layer = embedder()
    want = ops.convert_to_numpy(layer.table.embeddings)[IDS] * WIDTH**0.5
    want[IDS == END_OF_IMAGE] = ops.convert_to_numpy(layer.end_of_image)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(IDS)), want, rtol=1e-6)
    assert layer.compute_output_shape((2, 3)) == (2, 3, WIDTH)


def test_the_end_of_an_image_has_no_logit_of_its_own_vector():
    layer = embedder()
    x = ops.convert_to_numpy(layer(IDS))
    before = ops.convert_to_numpy(layer.table(x, reverse=True))
    layer.end_of_image.assign(layer.end_of_image * 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.table(x, reverse=True)), before)


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("bfloat16", "bfloat16"), ("mixed_bfloat16", "bfloat16"), ("float16", "float32")],
)
def test_vectors_have_the_dtype_of_sums_and_their_scale_too(policy, dtype):
    layer = embedder(policy)
    x = layer(IDS)
    assert keras.backend.standardize_dtype(x.dtype) == dtype
    row = ops.cast(ops.cast(layer.table.embeddings, layer.compute_dtype)[11], dtype)
    scale = ops.cast(WIDTH**0.5, dtype)
    np.testing.assert_array_equal(
        *(ops.convert_to_numpy(ops.cast(y, "float32")) for y in (x[0, 0], row * scale))
    )


def test_a_token_outside_of_the_vocabulary_may_be_the_end_of_an_image():
    layer = embedder(config=dataclasses.replace(TEXT_CONFIG, end_of_image_token_id=10**6))
    want = ops.convert_to_numpy(layer.table.embeddings)[IDS] * WIDTH**0.5
    np.testing.assert_allclose(ops.convert_to_numpy(layer(IDS)), want, rtol=1e-6)
