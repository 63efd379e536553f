"""Time of one dense layer with an adapter: ours against Keras's own `Dense.enable_lora`.

    KERAS_BACKEND=torch python tools/benchmark/lora.py

Forward and backward pass, the gradient of inputs and of the adapter, the kernel frozen. The two
take turns in one process; the ratio of their medians is what carries over to other machines.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from keras import layers, ops

from keras_t5gemma2.lora.config import LoRAConfig
from keras_t5gemma2.lora.dense import Dense


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--units", type=int, default=6912)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    steps = {
        "Keras": step(keras_layer(options), options),
        "factorized": step(our_layer(options), options),
        "factorized, DoRA": step(our_layer(options, use_dora=True), options),
    }
    times = {name: [] for name in steps}
    for repeat in range(options.repeats + 2):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if repeat >= 2:  # the first ones compile
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{keras.backend.backend()}, {options.width} -> {options.units}, {options.tokens} tokens")
    for name, median in medians.items():
        print(f"{name:18} {1000 * median:7.1f} ms   {medians['Keras'] / median:.2f}x")


def keras_layer(options):
    layer = layers.Dense(options.units, use_bias=False)
    layer.build((1, options.tokens, options.width))
    layer.enable_lora(options.rank)
    return layer


def our_layer(options, **kwargs):
    layer = Dense(options.units)
    layer.build((1, options.tokens, options.width))
    layer._kernel.trainable = False
    layer.add_adapter("a", LoRAConfig(options.rank, **kwargs))
    layer.active = {"a": 1.0}
    return layer


def step(layer, options):
    """A function that runs one forward and backward pass, and waits for it."""
    x = np.random.default_rng(0).normal(size=(1, options.tokens, options.width)).astype("float32")
    x = ops.convert_to_tensor(x)
    return {"jax": _jax_step, "torch": _torch_step, "tensorflow": _tensorflow_step}[
        keras.backend.backend()
    ](layer, x)


def _jax_step(layer, x):
    import jax

    fixed = [variable.value for variable in layer.non_trainable_variables]

    def loss(trained, x):
        return _loss(layer.stateless_call(trained, fixed, x)[0])

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    trained = [variable.value for variable in layer.trainable_variables]
    return lambda: jax.block_until_ready(gradients(trained, x))


def _torch_step(layer, x):
    import torch

    x = x.clone().requires_grad_()
    trained = [variable.value for variable in layer.trainable_variables]
    return lambda: torch.autograd.grad(_loss(layer(x)), [x, *trained])


def _tensorflow_step(layer, x):
    import tensorflow as tf

    trained = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = _loss(layer(x))
        return tape.gradient(loss, [x, *trained])

    return lambda: [gradient.numpy() for gradient in gradients()]


def _loss(y):
    """With a gradient that is no constant, which a compiler would see through."""
    return ops.sum(ops.square(y))


if __name__ == "__main__":
    main()
