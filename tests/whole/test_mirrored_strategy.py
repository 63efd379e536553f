"""`fit` under TensorFlow's MirroredStrategy trains what one device would."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from mirrored import trained
from repository import environment

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="a strategy of TensorFlow"
)

_SCRIPT = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
from mirrored import trained
with strategy.scope():
    lm, history = trained(sys.argv[2] == "lora")
weights = {str(i): keras.ops.convert_to_numpy(w) for i, w in enumerate(lm.weights)}
np.savez(sys.argv[1] + "/result.npz", **history, **weights)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_losses_and_weights_are_those_of_one_device(tmp_path, kind):
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), kind],
        env=environment(KERAS_BACKEND="tensorflow"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = np.load(tmp_path / "result.npz")
    lm, want = trained(kind == "lora")
    del want["tokens_per_second"]
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    for i, weight in enumerate(lm.weights):
        value = keras.ops.convert_to_numpy(weight)
        np.testing.assert_allclose(found[str(i)], value, rtol=1e-5, atol=1e-5)
