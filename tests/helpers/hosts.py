"""One of two processes that train one model on eight devices; `test_several_hosts` starts them.

python hosts.py PROCESS ADDRESS DIRECTORY [KILL_AFTER]
"""

import json
import os
import pathlib
import signal
import sys

DEVICES = 4
SIZES = {"epochs": 2, "batch_size": 5, "verbose": 0}  # 9 rows: no batch divides by the devices


def main(process, address, directory, kill_after=None):
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import keras

    keras.distribution.initialize(address, num_processes=2, process_id=int(process))

    from keras_t5gemma2 import TrainingCheckpoint, distribution

    # Rows over four, and weights over all eight devices.
    distribution.distribute(model_parallel=2, fsdp=True)

    directory = pathlib.Path(directory)
    lm = task()
    spread = [v for v in lm.variables if not v.value.is_fully_addressable]
    spread = [v.path for v in spread if not v.value.is_fully_replicated]
    callbacks = [dies(kill_after), TrainingCheckpoint(directory / "run", save_freq=1)]
    history = fit(lm, callbacks)
    lm.save_to_preset(directory / "preset")
    # On a shared file system all processes see what the first one has written.
    assert (directory / "preset" / "config.json").exists()
    lm.save_adapter(directory / "adapter.safetensors")
    result = {"history": history, "devices": jax.device_count(), "spread": spread}
    (directory / f"result_{process}.json").write_text(json.dumps(result))


def task():
    import keras
    from tasks import small_task

    keras.utils.set_random_seed(0)
    lm = small_task()
    lm.enable_lora(2)
    lm.compile(optimizer=keras.optimizers.Adam(3e-2), sampler="greedy")
    return lm


def fit(lm, callbacks=()):
    from resumed_runs import MANY

    history = lm.fit(MANY, validation_data=MANY, callbacks=list(callbacks), **SIZES).history
    del history["tokens_per_second"]
    return history


def dies(kill_after):
    """A callback that ends the process after so many steps as a machine would that fails."""
    import keras

    class Dies(keras.callbacks.Callback):
        step = 0

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            if self.step == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

    return Dies()


if __name__ == "__main__":
    *arguments, kill_after = [*sys.argv[1:], None] if len(sys.argv) == 4 else sys.argv[1:]
    main(*arguments, kill_after=kill_after and int(kill_after))
