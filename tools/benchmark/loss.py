"""Memory and time of the loss without logits, and memory of gradient checkpointing.

    python tools/benchmark/loss.py --tokens 512 2048
    python tools/benchmark/loss.py --checkpointing

The first compares the loss and its gradients with the plain way: all logits, then Keras's own
cross-entropy, compiled as the backend compiles. The head is frozen, as under LoRA, or trainable:
then both have a gradient of the size of the table. The second says what each further block of a
decoder adds to the memory of a training step, in hidden states of the batch.

Each number comes from a process of its own, of which the two sides take turns, and is the median
of `--repeats`. Memory is the peak of a step over what was there before it: resident memory on a
CPU under Linux. Choose the backend with KERAS_BACKEND.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
# What is freed goes back to the system at once, and the peak is what was held at once. It costs
# time, and no kernel with pools of its own runs.
_NOTHING_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def main():
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(_measure(json.loads(arguments.measure))))
        return
    backend = os.environ.get("KERAS_BACKEND", "Keras's default backend")
    print(f"{backend}, {os.cpu_count()} cores, float32, medians of {arguments.repeats}", flush=True)
    (_compare_blocks if arguments.checkpointing else _compare_losses)(arguments)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--heads", nargs="+", default=["frozen", "trainable"])
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare_losses(arguments):
    print(f"vocabulary {arguments.vocabulary}, hidden width {arguments.width}")
    print("tokens  head       plain MiB  ours MiB  ratio  plain s   ours s  ratio", flush=True)
    for tokens in arguments.tokens:
        for head in arguments.heads:
            sizes = {"tokens": tokens, "vocabulary": arguments.vocabulary, "head": head}
            sizes["width"] = arguments.width
            plain, ours = _in_turn(
                [{"what": "plain", **sizes}, {"what": "ours", **sizes}], arguments.repeats
            )
            print(
                f"{tokens:6}  {head:9} {plain['bytes'] / MIB:10.0f} {ours['bytes'] / MIB:9.0f} "
                f"{ours['bytes'] / plain['bytes']:6.3f} {plain['seconds']:8.2f} "
                f"{ours['seconds']:8.2f} {ours['seconds'] / plain['seconds']:6.2f}",
                flush=True,
            )


def _compare_blocks(arguments):
    """Steps of decoders of 2 and 8 blocks: the difference is what 6 blocks keep."""
    few, many = 2, 8
    print("checkpointing  MiB of each block  hidden states  seconds of 8 blocks", flush=True)
    for is_checkpointing in (False, True):
        cases = [
            {"what": "blocks", "blocks": blocks, "checkpointing": is_checkpointing}
            for blocks in (few, many)
        ]
        small, large = _in_turn(cases, arguments.repeats)
        of_block = (large["bytes"] - small["bytes"]) / (many - few)
        print(
            f"{is_checkpointing!s:13} {of_block / MIB:18.2f} {of_block / large['state']:14.2f} "
            f"{large['seconds']:21.2f}",
            flush=True,
        )


def _in_turn(cases, repeats):
    """Per case, the medians of what processes of its own have measured."""
    results = [[] for _ in cases]
    for _ in range(repeats):
        for case, found in zip(cases, results, strict=True):
            found.append(_in_a_process(case))
    return [
        {key: statistics.median(one[key] for one in found) for key in found[0]} for found in results
    ]


def _in_a_process(case):
    result = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps(case)],
        env=os.environ | (_NOTHING_KEPT if case["what"] == "blocks" else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"Measuring {case} failed with status {result.returncode}, see above.")
    return json.loads(result.stdout.splitlines()[-1])


# In the process that measures -----------------------------------------------------------------


def _measure(case):
    what = case.pop("what")
    step, more = _decoder_step(**case) if what == "blocks" else _loss_step(what, **case)
    if what == "blocks":
        step()  # it traces, and what that takes is no activation
    before = _start_of_peak()
    step()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"bytes": _status("VmHWM") - before, "seconds": min(seconds), **more}


def _loss_step(what, tokens, vocabulary, width, head):
    import numpy as np

    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((tokens, width), "float32")
    table = rng.standard_normal((vocabulary, width), "float32") * width**-0.5
    labels = rng.integers(0, vocabulary, (tokens,), "int32")
    weights = rng.uniform(0.5, 1.5, (tokens,)).astype("float32")
    loss = (_plain_loss if what == "plain" else _our_loss)(labels, weights)
    return _step(loss, hidden, [table], head == "trainable"), {}


def _plain_loss(labels, weights):
    import keras
    from keras import ops

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )

    def loss(hidden, table):
        return cross_entropy(labels, ops.matmul(hidden, ops.transpose(table)), weights)

    return loss


def _our_loss(labels, weights):
    from keras_t5gemma2 import kernels

    def loss(hidden, table):
        sums = kernels.linear_cross_entropy(hidden, table, labels, weights)
        return sums.loss / sums.weight

    return loss


def _decoder_step(blocks, checkpointing, batch=2, length=384):
    """A decoder of the published 270M width; its weights are frozen, so that none has a gradient.

    What grows with the number of blocks is then only what the backward pass needs.
    """
    import numpy as np
    from keras import ops

    from keras_t5gemma2 import AttentionConfig, StackConfig
    from keras_t5gemma2.model.stacks import Decoder

    attention = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=256, window=512)
    decoder = Decoder(StackConfig(hidden_dim=640, mlp_dim=2048, layers=(attention,) * blocks))
    decoder.build((batch, length, 640))
    decoder.gradient_checkpointing = checkpointing
    decoder.trainable = False
    mask = np.ones((batch, length), "int32")
    x = np.random.default_rng(0).standard_normal((batch, length, 640), "float32")

    def loss(x, *weights):
        output, _ = decoder.stateless_call([], weights, x, mask, x, mask, training=True)
        return ops.mean(ops.square(output))

    weights = [ops.convert_to_numpy(weight) for weight in decoder.non_trainable_variables]
    return _step(loss, x, weights, False), {"state": x.nbytes}


def _step(loss, x, weights, is_trainable):
    """A function that makes `loss(x, *weights)` and its gradients, and waits for them."""
    import keras

    return _BACKENDS[keras.config.backend()](loss, x, weights, is_trainable)


def _jax_step(loss, x, weights, is_trainable):
    import jax

    # JAX copies while it goes on: what is still on its way would count as the step's.
    arrays = jax.block_until_ready([jax.numpy.asarray(array) for array in (x, *weights)])
    counted = tuple(range(len(arrays))) if is_trainable else (0,)
    step = jax.jit(jax.value_and_grad(loss, argnums=counted)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(step(*arrays))


def _tensorflow_step(loss, x, weights, is_trainable):
    import keras
    import tensorflow as tf

    x = tf.constant(x)
    variables = [keras.Variable(array, trainable=is_trainable) for array in weights]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, *variables)
        trainable = [variable.value for variable in variables if is_trainable]
        return value, tape.gradient(value, [x, *trainable])

    return step


def _torch_step(loss, x, weights, is_trainable):
    import keras
    import torch

    x = torch.tensor(x, requires_grad=True)
    variables = [keras.Variable(array, trainable=is_trainable) for array in weights]
    trainable = [variable.value for variable in variables if is_trainable]
    return lambda: torch.autograd.grad(loss(x, *variables), [x, *trainable])


_BACKENDS = {"jax": _jax_step, "tensorflow": _tensorflow_step, "torch": _torch_step}


def _start_of_peak():
    """Resident bytes now; from here on the peak counts."""
    # What was freed and not given back would be used again, unseen.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) * 1024


if __name__ == "__main__":
    main()
