"""Weights, adapters and samples of a teacher that are no numbers are refused when they are read."""

import shutil

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from reference_gemma3 import tiny_gemma3, write_gguf
from safetensors.numpy import load_file, save_file
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM, TeacherSamples
from keras_t5gemma2.checkpoints.keras_hub.names import TABLES
from keras_t5gemma2.files.finite import count_nonfinite, is_finite

_KERNEL = "layers/decoder/blocks/block/mlp/up/vars/0"


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset whose decoder has two values that are not finite, and an adapter of NaN."""
    lm = small_task()
    lm.enable_lora(2, target=["query"])
    path = tmp_path_factory.mktemp("preset")
    lm.save_to_preset(path)
    return path


@pytest.fixture(scope="module")
def tiny():
    return T5Gemma2Backbone.from_preset("t5gemma2_tiny", text_only=True)


@pytest.fixture
def broken(preset, tmp_path):
    shutil.copytree(preset, tmp_path / "preset")
    _spoil_h5(tmp_path / "preset")
    return tmp_path / "preset"


def _spoil_h5(directory, name=_KERNEL, values=(np.nan, -np.inf)):
    with h5py.File(directory / "model.weights.h5", "r+") as file:
        file[name][0, : len(values)] = values


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int32"])
def test_each_value_that_is_not_finite_is_found(dtype):
    values = np.arange(-40, 60).reshape(10, 10).astype(dtype)
    assert is_finite(values) and is_finite(values.T) and is_finite(values[:0])
    assert is_finite(np.array(5, dtype))
    if dtype == "int32":
        return
    info = ml_dtypes.finfo(dtype)
    largest = np.array([info.max, info.min, 0, info.smallest_subnormal], dtype)
    assert is_finite(largest) and count_nonfinite(largest) == 0
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for place in ((0, 0), (9, 9), (4, 7)):
            spoiled = values.copy()
            spoiled[place] = bad
            assert not is_finite(spoiled) and not is_finite(spoiled.T)
            assert count_nonfinite(spoiled) == 1


def test_a_preset(broken):
    message = rf"{_KERNEL}, of whose \d+ values 2 are NaN or infinite. Give `allow_nonfinite=True`"
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM.from_preset(broken)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(broken, dtype="bfloat16")
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(broken, quantize="int8")
    backbone = T5Gemma2Backbone.from_preset(broken, allow_nonfinite=True)
    kernel = keras.ops.convert_to_numpy(backbone.decoder.blocks[0].mlp.up.kernel)
    assert count_nonfinite(kernel) == 2
    assert T5Gemma2Backbone.from_preset(broken, load_weights=False) is not None


@pytest.mark.once
def test_values_too_large_for_the_dtype(preset, tmp_path):
    shutil.copytree(preset, tmp_path / "preset")
    _spoil_h5(tmp_path / "preset", values=(1e6,))
    with pytest.raises(ValueError, match=r"1 is too large for float16. Load it with another"):
        T5Gemma2Backbone.from_preset(tmp_path / "preset", dtype="float16")
    assert T5Gemma2Backbone.from_preset(tmp_path / "preset", dtype="bfloat16") is not None


@pytest.mark.once
def test_a_preset_of_integers_with_a_scale_of_nan(tmp_path):
    backbone = small_task().backbone
    backbone.quantize("int8")
    backbone.save_to_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        file["layers/decoder/blocks/block/mlp/up/vars/1"][0] = np.nan
    with pytest.raises(ValueError, match=r"mlp/up/vars/1, of whose \d+ values 1 is NaN"):
        T5Gemma2Backbone.from_preset(tmp_path)
    T5Gemma2Backbone.from_preset(tmp_path, allow_nonfinite=True)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_directory_in_the_reference_s_format(tiny, tmp_path, dtype):
    T5Gemma2Seq2SeqLM(tiny).export_to_transformers(tmp_path, dtype=dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if "decoder" in name and "up_proj" in name)
    tensors[name] = tensors[name].copy()
    tensors[name][1, 1] = np.inf
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    for loaded in (None, "float32", "bfloat16", "float16"):
        with pytest.raises(ValueError, match=rf"{name}, of whose \d+ values 1 is NaN"):
            T5Gemma2Backbone.from_preset(tmp_path, dtype=loaded)
    T5Gemma2Backbone.from_preset(tmp_path, allow_nonfinite=True)


@pytest.mark.once
def test_a_preset_of_keras_hub_with_nan_in_both_tables(tmp_path):
    T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").save_to_keras_hub_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        tables = [name for name in _datasets(file) if name in TABLES]
        assert len(tables) == 2
        for name in tables:
            file[name][0, 0] = np.nan
    for options in ({}, {"embeddings": "decoder"}, {"embeddings": "mean"}):
        with pytest.raises(ValueError, match=r"of whose \d+ values 1 is NaN or infinite"):
            T5Gemma2Backbone.from_preset(tmp_path, **options)
    T5Gemma2Backbone.from_preset(tmp_path, allow_nonfinite=True)


def _datasets(file):
    found = []
    file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) else None)
    return found


@pytest.mark.slow
@pytest.mark.once
def test_gemma3_as_a_directory_and_as_gguf(tmp_path):
    model = tiny_gemma3()
    with torch.no_grad():
        model.model.embed_tokens.weight[2, 3] = np.nan
    model.save_pretrained(tmp_path / "hf")
    for path in (tmp_path / "hf", write_gguf(tmp_path / "model.gguf", model)):
        message = r"embd?.*weight, of whose \d+ values 1 is NaN or infinite"
        for options in ({}, {"quantize": "int4"}):
            with pytest.raises(ValueError, match=message):
                T5Gemma2Seq2SeqLM.from_gemma3(path, preprocessor=None, **options)
        lm = T5Gemma2Seq2SeqLM.from_gemma3(path, preprocessor=None, allow_nonfinite=True)
        assert lm.backbone.source == "unknown"


def test_load_weights(tmp_path):
    lm = small_task()
    kernel = lm.backbone.decoder.blocks[0].mlp.up.kernel
    kernel.assign(np.full(kernel.shape, np.nan, "float32"))
    lm.save_weights(tmp_path / "x.weights.h5")
    lm.backbone.save_weights(tmp_path / "y.weights.h5")
    other = small_task()
    with pytest.raises(ValueError, match=r"decoder/layer_0/mlp/up/kernel of .*x.weights.h5, of"):
        other.load_weights(tmp_path / "x.weights.h5")
    with pytest.raises(ValueError, match="y.weights.h5, of whose"):
        other.backbone.load_weights(tmp_path / "y.weights.h5")
    other.load_weights(tmp_path / "x.weights.h5", allow_nonfinite=True)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_whole_model_of_keras(tmp_path, dtype):
    lm = small_task(dtype=dtype)
    kernel = lm.backbone.decoder.blocks[0].mlp.up.kernel
    kernel.assign(np.full(kernel.shape, np.inf, "float32"))
    lm.save(tmp_path / "x.keras")
    lm.backbone.save(tmp_path / "y.keras")
    for name in ("x", "y"):
        with pytest.raises(ValueError, match=r"NaN or infinite in .* of the weights of t5.*_back"):
            keras.saving.load_model(tmp_path / f"{name}.keras")
    other = small_task(dtype=dtype)
    other.load_weights(tmp_path / "x.keras", allow_nonfinite=True)
    kernel = other.backbone.decoder.blocks[0].mlp.up.kernel
    assert not is_finite(keras.ops.convert_to_numpy(kernel))
    kernel.assign(np.zeros(kernel.shape, "float32"))
    other.save(tmp_path / "z.keras")
    keras.saving.load_model(tmp_path / "z.keras")


@pytest.mark.once
def test_an_adapter_of_ours_and_of_peft(tmp_path):
    lm = small_task()
    lm.enable_lora(2, target=["query"])
    lm.save_adapter(tmp_path / "a.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    lm.save_to_preset(tmp_path / "preset")
    adapters = tmp_path / "preset" / "adapters" / "default.safetensors"
    for path in (tmp_path / "a.safetensors", tmp_path / "peft/adapter_model.safetensors", adapters):
        _spoil_safetensors(path)
    fresh = small_task()
    message = r"lora_[ab] of .*{}.*, of whose \d+ values 1 is NaN or infinite"
    with pytest.raises(ValueError, match=message.format("a.safetensors")):
        fresh.load_adapter(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message.format("peft")):
        fresh.load_peft_adapter(tmp_path / "peft")
    assert not fresh.adapters
    with pytest.raises(ValueError, match=message.format("default.safetensors")):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path / "preset")
    fresh.load_adapter(tmp_path / "a.safetensors", allow_nonfinite=True)
    fresh.load_peft_adapter(tmp_path / "peft", "other", allow_nonfinite=True)
    assert list(fresh.adapters) == ["default", "other"]
    loaded = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "preset", allow_nonfinite=True)
    assert list(loaded.adapters) == ["default"]


def _spoil_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
    next(iter(tensors.values())).flat[0] = np.nan
    save_file(tensors, path, metadata)


@pytest.mark.once
def test_samples_of_a_teacher(tmp_path):
    samples = small_task().sample_logits(SMALL_ROWS, num_samples=3)
    samples.probabilities[samples.lengths[0] + 1, 2] = np.nan
    samples.save(tmp_path / "samples.npz")
    message = r"1 of \d+ tokens with NaN or infinite ones, the first in row 1"
    with pytest.raises(ValueError, match=rf"{message}.*samples\.npz"):
        TeacherSamples.load(tmp_path / "samples.npz")
    with pytest.raises(ValueError, match=message):
        TeacherSamples(samples.token_ids, samples.probabilities, samples.lengths)
    assert len(TeacherSamples.load(tmp_path / "samples.npz", allow_nonfinite=True)) == 2
