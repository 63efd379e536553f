"""Which kernel would run, and why not another: what the table says is what is computed."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_t5gemma2
from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import dispatch

BACKEND = keras.config.backend()
EXPECTED = {
    ("jax", "tpu"): ("splash", "splash", "blocked", "reference", "splash"),
    ("jax", "cuda"): ("blocked", "blocked", "blocked", "reference", "blocked"),
    ("jax", "cpu"): ("blocked", "blocked", "blocked", "reference", "blocked"),
    ("torch", "cuda"): ("flex", "flex", "flex", "scores", "flex"),
    ("torch", "cpu"): ("flash", "flash", "flash", "few", "flash"),
    ("tensorflow", "cuda"): ("blocked", "blocked", "blocked", "reference", "blocked"),
    ("tensorflow", "cpu"): ("blocked", "blocked", "blocked", "reference", "blocked"),
}
PLACES = ["encoder", "encoder, sliding", "prefill", "step", "vision"]


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu"])
def test_the_kernels_of_a_device(device):
    if (BACKEND, device) not in EXPECTED:
        pytest.skip(f"{BACKEND} has no {device}")
    width = 128
    found = keras_t5gemma2.kernels_for(device, length=4096, head_dim=width)
    assert list(found) == PLACES
    assert tuple(choice.kernel for choice in found.values()) == EXPECTED[BACKEND, device]
    names = list(dispatch.KERNELS)
    for choice in found.values():  # all before it have a reason, and none behind it
        assert list(choice.why_not) == names[: names.index(choice.kernel)]
        assert all(choice.why_not.values())


@pytest.mark.parametrize("length", [9, 300])
def test_it_is_the_kernel_that_runs_here(rng, monkeypatch, length):
    ran = []
    for name, kernel in dispatch.KERNELS.items():

        def attend(*call, name=name, kernel=kernel):
            ran.append(name)
            return kernel.attend(*call)

        monkeypatch.setitem(dispatch.KERNELS, name, kernel._replace(attend=attend))
    x = ops.convert_to_tensor(rng.standard_normal((1, 1, length, 16), "float32"))
    positions = ops.convert_to_tensor(np.arange(length, dtype="int32")[None])
    kernels.attend(x, positions, [(KeyValues(x, x, positions), Window.bidirectional(64))], 0.3)
    here = keras_t5gemma2.kernels_for(None, length, "float32", 16, window=64)
    assert ran == [here["encoder, sliding"].kernel]


@pytest.mark.skipif(BACKEND != "jax", reason="a kernel of JAX")
def test_what_needs_cudnn_is_taken_where_that_is(monkeypatch):
    import jax

    def of_vision():
        return keras_t5gemma2.kernels_for("cuda", 4096, head_dim=72)["vision"]

    assert "cuDNN" in of_vision().why_not["cudnn"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert of_vision().kernel == "cudnn"


def test_a_kernel_that_caps_no_scores_is_not_taken_where_they_are_capped():
    capped = keras_t5gemma2.kernels_for("cpu", 4096, soft_cap=50.0)
    assert all(dispatch.KERNELS[choice.kernel].caps for choice in capped.values())
    if BACKEND == "torch":
        assert capped["encoder"].why_not["flash"] == "it does not cap scores"


def test_reasons_name_the_number_that_is_in_the_way():
    found = keras_t5gemma2.kernels_for("cpu", length=500, head_dim=72)
    assert "500 x 500 scores a head" in str(keras_t5gemma2.kernels_for("tpu", 500)["encoder"])
    assert str(found).splitlines()[0] == "| attention of | kernel | why not another |"
    assert len(str(found).splitlines()) == 2 + len(PLACES)
    if BACKEND == "jax":
        of_tpu = keras_t5gemma2.kernels_for("tpu", 500)
        assert "multiple of 128, and is 500" in of_tpu["encoder"].why_not["splash"]
        of_gpu = keras_t5gemma2.kernels_for("gpu", 4096, "float32", 72)
        assert "half precision, and the dtype is float32" in of_gpu["vision"].why_not["cudnn"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "npu"}, "`device` must be one of .* Received: device='npu'"),
        ({"length": 0}, "Received: length=0"),
        ({"head_dim": 1.5}, "Received: head_dim=1.5"),
        ({"window": -1}, "Received: window=-1"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_t5gemma2.kernels_for(**arguments)
