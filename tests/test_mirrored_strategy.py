"""`fit` under TensorFlow's MirroredStrategy trains what one device would."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_tasks import small_task
from test_resume import MANY

ROOT = pathlib.Path(__file__).parent.parent
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
from test_resume import MANY
from test_mirrored_strategy import trained
with strategy.scope():
    lm, history = trained(sys.argv[2] == "lora")
weights = {str(i): keras.ops.convert_to_numpy(w) for i, w in enumerate(lm.weights)}
np.savez(sys.argv[1] + "/result.npz", **history, **weights)
"""


def trained(is_lora):
    keras.utils.set_random_seed(0)
    lm = small_task()
    if is_lora:
        lm.enable_lora(2)
        lm.compile(optimizer=keras.optimizers.SGD(0.5))
    keras.utils.set_random_seed(0)
    # Rows of different numbers of tokens, and a last batch that two devices cannot halve.
    options = {"batch_size": 4, "epochs": 2, "verbose": 0}
    validation = {"validation_data": MANY} if is_lora else {}
    return lm, lm.fit(MANY, **options, **validation).history


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_losses_and_weights_are_those_of_one_device(tmp_path, kind):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), kind],
        env={**environment, "KERAS_BACKEND": "tensorflow"},
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
