"""Functions as programs of `jax.export`."""

import keras
import numpy as np
import pytest

from keras_t5gemma2.kernels.export.jax_programs import programs
from keras_t5gemma2.kernels.runtime.dispatch import by_platform, platform_at_hand

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="of JAX")


def test_a_program_for_each_platform_computes_what_the_function_does_there(rng):
    import jax

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.weights[0].assign(rng.normal(size=(3, 2)))
    asked = []

    def function(inputs):
        asked.append(platform_at_hand())
        doubled = by_platform({"tpu": lambda x: 3.0 * x}, lambda x: 2.0 * x, inputs["x"])
        return {"y": model(doubled)}

    specs = {"x": keras.InputSpec(shape=(4, 3), dtype="float32")}
    found = programs({"one": (function, specs)}, model.variables, ["tpu", "cpu"])
    assert list(found) == [("one", "tpu"), ("one", "cpu")] and set(asked) == {"tpu", "cpu"}
    read = {platform: jax.export.deserialize(data) for (_, platform), data in found.items()}
    assert {name: program.platforms for name, program in read.items()} == {
        "tpu": ("tpu",),
        "cpu": ("cpu",),
    }
    x = rng.normal(size=(4, 3)).astype("float32")
    # The weights come from outside: others give another result.
    for times in (1.0, 5.0):
        values = {v.path: times * np.asarray(v.value) for v in model.variables}
        outputs = read["cpu"].call(values, {"x": x})
        kernel = np.asarray(model.weights[0].value)
        np.testing.assert_allclose(outputs["y"], 2.0 * times * x @ kernel, rtol=1e-5)
    assert "3.000000e+00" in read["tpu"].mlir_module()
