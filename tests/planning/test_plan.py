"""What a model will take of a device's memory: computed, and measured."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.work import Work

IS_JAX = keras.config.backend() == "jax"


def num_bytes(variables):
    return sum(
        int(np.prod(v.shape)) * np.dtype(keras.backend.standardize_dtype(v.dtype)).itemsize
        for v in variables
    )


@pytest.mark.once
def test_rows_are_shared_out():
    def of(mesh, batch_size):
        return plan(TEXT_CONFIG, Work("lora", batch_size=batch_size, mesh=mesh))

    assert of((4, 1), 7) == of((1, 1), 2)


@pytest.mark.once
def test_the_largest_batch():
    work = Work("lora", dtype="float32", encoder_length=64, decoder_length=32)
    memory = 50_000_000
    size = largest_batch(TEXT_CONFIG, work, memory)
    assert size > 8
    fits = [
        plan(TEXT_CONFIG, dataclasses.replace(work, batch_size=n)).fits(memory)
        for n in (size, size + 1 + size // 32)
    ]
    assert fits == [True, False]
    assert largest_batch(TEXT_CONFIG, work, plan(TEXT_CONFIG, work).weights) == 0


@pytest.mark.once
def test_images_need_a_tower():
    with pytest.raises(ValueError, match="images=2 and a model of text only"):
        plan(CONFIG, Work(images=2), text_only=True)
