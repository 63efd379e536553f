"""ONNX models of functions: names, and indices that runtimes take."""

import builtins

import keras
import numpy as np
import pytest
from keras import InputSpec, ops

from keras_t5gemma2.kernels.export import onnx_programs

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(keras.config.backend() != "torch", reason="torch writes them"),
]


def test_what_is_written_into_a_tensor_comes_out_of_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])

    def function(inputs):
        import torch

        written = inputs["cache"].clone()
        index = torch.reshape(inputs["index"], (1,))
        written.index_copy_(1, index, model(inputs["x"])[:, None])
        return {"cache": written, "a": index + 1}

    specs = {
        "x": InputSpec(shape=(2, 3), dtype="float32"),
        "index": InputSpec(shape=(), dtype="int32"),
        "cache": InputSpec(shape=(2, 4, 3), dtype="float32"),
    }
    found = onnx_programs.programs(model, {"write": (function, specs)})
    onnx_programs.save(found["write"], tmp_path / "write.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "write.onnx")
    assert [node.name for node in session.get_inputs()] == list(specs)
    assert [node.name for node in session.get_outputs()] == ["new_cache", "a"]
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 3)), "cache": rng.normal(size=(2, 4, 3))}
    inputs = {name: x.astype("float32") for name, x in inputs.items()}
    written, following = session.run(None, {**inputs, "index": np.array(2, "int32")})
    want = inputs["cache"].copy()
    want[:, 2] = ops.convert_to_numpy(model(inputs["x"]))
    np.testing.assert_allclose(written, want, atol=1e-6)
    assert following.tolist() == [3]


def test_a_missing_library_is_named(monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"Missing: onnxscript. Install the extra: pip install"):
        onnx_programs.check_installed()
