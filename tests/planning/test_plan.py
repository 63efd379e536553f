"""What a model will take of a device's memory: computed, and measured."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, TEXT_CONFIG

from keras_t5gemma2 import presets
from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.weights import published_models
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


@pytest.mark.once
def test_the_tool(capsys):
    import plan as tool

    tool.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        [f"| {name}", mode] for name in published_models() for mode in ("inference", "fit", "lora")
    ]
    tool.main(["t5gemma2_4b_4b", "--mode", "inference", "--memory", "12", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["weights"] == 2 * presets["t5gemma2_4b_4b"]["metadata"]["params"]
    assert (row["fits"], row["largest_batch"]) == (False, 0)
    tool.main(["t5gemma2_tiny", "--mode", "lora", "--text-only"])
    assert "| t5gemma2_tiny | lora |" in capsys.readouterr().out
