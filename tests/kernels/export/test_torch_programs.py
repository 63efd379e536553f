"""Functions as programs of `torch.export`."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels.export.torch_programs import programs, save

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="of torch")


def test_a_program_computes_what_the_function_does(tmp_path, rng):
    import torch

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.weights[0].assign(rng.normal(size=(3, 2)))

    def function(inputs):
        return {"y": model(inputs["x"]), "n": ops.sum(inputs["n"])}

    specs = {
        "x": keras.InputSpec(shape=(4, 3), dtype="float32"),
        "n": keras.InputSpec(shape=(2,), dtype="int32"),
    }
    found = programs(model, {"one": (function, specs)})
    assert list(found) == ["one"]
    save(found["one"], tmp_path / "one.pt2")
    x = rng.normal(size=(4, 3)).astype("float32")
    inputs = {"x": torch.from_numpy(x), "n": torch.tensor([3, 4], dtype=torch.int32)}
    outputs = torch.export.load(tmp_path / "one.pt2").module()(inputs)
    wanted = x @ ops.convert_to_numpy(model.weights[0])
    np.testing.assert_allclose(outputs["y"].detach().numpy(), wanted, rtol=1e-5)
    assert outputs["n"].item() == 7
