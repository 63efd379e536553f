"""What one more device or process changes: measured on this machine, and computed for others.

    python tools/scaling.py

Virtual devices and processes share this machine's cores: they show what each of them holds and
what it costs to work together, never that more of them are faster. What the published models take
of real devices is computed by the planner, and not measured.
"""

import argparse
import json
import os
import subprocess
import sys
import time

COUNTS = (1, 2, 4, 8)
WAYS = {"FSDP": {"fsdp": True}, "tensor parallel": {"model_parallel": 0}}  # 0: all devices
STEPS, ROWS = 6, 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, _, way = options.worker.partition(":")
        (of_devices if kind == "devices" else of_processes)(way)
        return
    print("## Measured: virtual devices of one CPU (JAX)\n")
    print("| way | devices | MB a device holds | seconds a step | of one device |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way in WAYS:
        first = None
        for count in options.counts:
            flags = f"--xla_force_host_platform_device_count={count}"
            found = worker(f"devices:{way}", KERAS_BACKEND="jax", XLA_FLAGS=flags)
            first = first or found["seconds"]
            times = f"{found['seconds']:.2f} | {found['seconds'] / first:.2f}"
            print(f"| {way} | {count} | {found['bytes'] / 1e6:.1f} | {times} |", flush=True)
    print("\n## Measured: processes with all weights each (PyTorch, gloo)\n")
    print("| processes | seconds a step | of one process |\n| ---: | ---: | ---: |")
    first = None
    for count in options.counts:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        found = worker("processes:", launcher if count > 1 else [], KERAS_BACKEND="torch")
        first = first or found["seconds"]
        print(f"| {count} | {found['seconds']:.2f} | {found['seconds'] / first:.2f} |", flush=True)
    computed()


def worker(name, launcher=(), **variables):
    """What another process prints last: JSON."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [sys.executable, *launcher, __file__, "--worker", name]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def of_devices(way):
    """Prints what the first device holds of weights and optimizer, and the seconds of a step."""
    import keras

    from keras_t5gemma2 import distribution

    options = dict(WAYS[way])
    if options.get("model_parallel") == 0:
        options["model_parallel"] = len(keras.distribution.list_devices())
    distribution.distribute("t5gemma2_tiny", verbose=False, **options)
    lm, seconds = trained()
    variables = [*lm.backbone.weights, *lm.optimizer.variables]
    shards = [v.value.addressable_shards[0].data for v in variables]
    print(json.dumps({"bytes": sum(s.nbytes for s in shards), "seconds": seconds}))


def of_processes(_):
    """Prints the seconds of a step, in the first process."""
    from keras_t5gemma2.kernels.runtime import processes

    processes.join()
    _, seconds = trained()
    if processes.index() == 0:
        print(json.dumps({"seconds": seconds}))


def trained():
    """The embedded model after some steps on all weights, and the median seconds of one."""
    import keras
    import numpy as np

    import keras_t5gemma2

    class Clock(keras.callbacks.Callback):
        times = []

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())

    keras.utils.set_random_seed(0)
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    rows = {
        "encoder_text": [f"Spell {1000 + n} in German." for n in range(ROWS * STEPS)],
        "decoder_text": ["eintausend"] * (ROWS * STEPS),
    }
    lm.fit(rows, batch_size=ROWS, callbacks=[Clock()], verbose=0)
    return lm, float(np.median(np.diff(Clock.times)[1:]))


def computed():
    """Prints how many rows of the published models fit on 1, 4 and 8 TPU v5e."""
    from keras_t5gemma2.planning import machines

    print("\n## Computed: the largest batch of published models on TPU v5e\n")
    names = ["v5e-1", "v5e-4", "v5e-8"]
    print(f"| model | task | {' | '.join(names)} |\n| --- | --- | ---: | ---: | ---: |")
    for model in ("t5gemma2_270m_270m", "t5gemma2_1b_1b", "t5gemma2_4b_4b"):
        for task in ("generate, 8K", "LoRA, 2K", "full training, 2K"):
            found = [machines.best(model, task, name).batch for name in names]
            print(f"| {model} | {task} | {' | '.join(f'{batch:,}' for batch in found)} |")


if __name__ == "__main__":
    main()
