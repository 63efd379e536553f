"""Functions as TensorFlow and LiteRT load them."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels.export.saved_model import write_litert, write_saved_model

pytestmark = pytest.mark.skipif(keras.config.backend() == "torch", reason="of JAX and TensorFlow")


def functions(rows):
    """Two functions of a model of one weight, for so many rows."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.weights[0].assign(np.arange(6.0).reshape(3, 2))
    specs = {"x": keras.InputSpec(shape=(rows, 3), dtype="float32")}
    found = {
        "call": (lambda inputs: {"y": model(inputs["x"])}, specs),
        "sum": (lambda inputs: {"total": ops.sum(inputs["x"], axis=1)}, specs),
    }
    return model, found


def test_a_saved_model_takes_any_number_of_rows(tmp_path):
    import tensorflow as tf

    model, found = functions(rows=None)
    write_saved_model(tmp_path / "model", found, model.variables)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for rows in (1, 4):
        x = np.ones((rows, 3), "float32")
        np.testing.assert_allclose(loaded.call({"x": x})["y"], [[6.0, 9.0]] * rows)
        np.testing.assert_allclose(loaded.sum({"x": x})["total"], [3.0] * rows)


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow alone writes it")
def test_a_file_of_litert_has_a_signature_for_each_function(tmp_path):
    import tensorflow as tf

    model, found = functions(rows=2)
    write_litert(tmp_path / "model.tflite", found, model.variables, {})
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    assert set(interpreter.get_signature_list()) == set(found)
    x = np.ones((2, 3), "float32")
    for name, wanted in (("call", [[6.0, 9.0]] * 2), ("sum", [3.0, 3.0])):
        run = interpreter.get_signature_runner(name)
        (of_rows,) = run.get_input_details()  # of a single tensor, TensorFlow chooses the name
        (found,) = run(**{of_rows: x}).values()
        np.testing.assert_allclose(found, wanted)
