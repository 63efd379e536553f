"""Memories of rows, of both kinds; the programs as a whole are in tests/serving/test_engine.py."""

import keras
import numpy as np
import pytest
from tasks import ONE_LAYER, small_task

from keras_t5gemma2.generation import decoding
from keras_t5gemma2.serving import batch_programs as programs


@pytest.mark.once
@pytest.mark.parametrize("kind", ["projected", "shared"])
def test_rows_of_a_memory(kind):
    backbone = small_task(ONE_LAYER).backbone
    ids = np.array([[2, 5, 7, 0], [2, 9, 9, 9]], "int32")
    inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids > 0}
    memory = decoding.remember(backbone, inputs, kind)
    numbers = np.array([1], "int32")
    one = programs.of_rows(lambda axis, x: keras.ops.take(x, numbers, axis=0), memory)
    alone = decoding.remember(backbone, {name: x[1:] for name, x in inputs.items()}, kind)
    found, want = (keras.tree.flatten(x) for x in (one, alone))
    for x, y in zip(found, want, strict=True):
        assert x.shape == y.shape
        x, y = map(keras.ops.convert_to_numpy, (x, y))
        np.testing.assert_allclose(x, y, atol=1e-5)
    wide = programs._widened(one, 6)
    assert wide.positions.shape == (1, 6)
    assert keras.ops.convert_to_numpy(wide.positions)[0].tolist() == [0, 1, 2, 3, -1, -1]
