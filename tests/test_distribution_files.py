"""Presets on a mesh of eight devices: written whole, read part by part."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from meshes import bytes_on_devices, distributed
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.distribution import bytes_per_device
from keras_t5gemma2.files.tensors import num_bytes
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.model import loading

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)
TINY = "t5gemma2_tiny"


def numpy_weights(model):
    return {v.path: ops.convert_to_numpy(v) for v in model.weights}


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(got[path], values, err_msg=path)


@pytest.mark.slow
def test_saved_on_a_mesh_and_loaded_on_any(tmp_path):
    with distributed(2, 4, fsdp=True):
        lm = small_task()
        lm.enable_lora(4)
        lm.fit(SMALL_ROWS, batch_size=2, verbose=0)
        saved = numpy_weights(lm)
        lm.save_to_preset(tmp_path / "preset")
        lm.save_weights(tmp_path / "task.weights.h5")
    whole = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "preset")
    assert_equal(numpy_weights(whole), saved)
    for shape in ((4, 2), (1, 8)):
        with distributed(*shape):
            assert_equal(numpy_weights(T5Gemma2Seq2SeqLM.from_preset(tmp_path / "preset")), saved)
            other = small_task(seed=1)
            other.enable_lora(4)
            other.load_weights(tmp_path / "task.weights.h5")
            assert_equal(numpy_weights(other), saved)


@pytest.mark.parametrize("shape, fsdp", [((2, 4), False), ((8, 1), True), ((8, 1), False)])
def test_a_device_never_holds_more_than_its_part(monkeypatch, shape, fsdp):
    """What arrives is read as parts, and after each weight a device has what is its own of it."""
    import jax

    largest, held = [], []
    others = jax.live_arrays()  # kept: an array that goes could leave its id to a new one
    before = {id(array) for array in others}
    take_over, value = loading.take_over, loading._value

    def whole(values):
        largest.append(values.nbytes)
        return take_over(values)

    def watched(*arguments):
        result = value(*arguments)
        on_devices = {}
        for array in jax.live_arrays():
            part = array.itemsize * math.prod(array.sharding.shard_shape(array.shape))
            for device in array.devices() if id(array) not in before else ():
                on_devices[device] = on_devices.get(device, 0) + part
        held.append(max(on_devices.values()))
        return result

    monkeypatch.setattr(loading, "take_over", whole)
    monkeypatch.setattr(loading, "_value", watched)
    with distributed(*shape, fsdp=fsdp) as distribution:
        backbone = T5Gemma2Backbone.from_preset(TINY)
        share = bytes_per_device(backbone, distribution)
    total = sum(num_bytes(variable) for variable in backbone.weights)
    assert largest == []
    assert set(bytes_on_devices(backbone.weights).values()) == {share}
    assert held == sorted(held)
    assert held[-1] <= share + 10_000  # what a program keeps for itself
    if shape[1] > 1 or fsdp:
        assert share < 0.4 * total
    else:
        assert share == total


def test_parts_are_the_values_of_the_whole():
    expected = numpy_weights(T5Gemma2Backbone.from_preset(TINY, dtype="bfloat16"))
    with distributed(2, 4, fsdp=True):
        backbone = T5Gemma2Backbone.from_preset(TINY, dtype="bfloat16")
    assert_equal(numpy_weights(backbone), expected)


@pytest.mark.slow
def test_quantized_kernels_stay_spread():
    with distributed(2, 4):
        lm = small_task()
        texts = lm.generate(SMALL_ROWS, max_new_tokens=4)
        lm.quantize("int8", filters=lambda layer: isinstance(layer, Dense))
        assert len(lm.generate(SMALL_ROWS, max_new_tokens=4)) == len(texts)
        up = lm.backbone.decoder.blocks[0].mlp.up
    assert up._kernel.value.dtype == "int8"
    assert tuple(up._kernel.value.sharding.spec) == (None, "model")
    assert tuple(up.kernel_scale.value.sharding.spec) == ("model",)
