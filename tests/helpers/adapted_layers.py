"""Dense layers with adapters, and what these add to the kernel, written out."""

import numpy as np
from keras import ops

from keras_t5gemma2.lora.config import LoRAConfig
from keras_t5gemma2.lora.dense import Dense

WIDTH, UNITS = 11, 7
VARIANTS = {
    "plain": LoRAConfig(rank=3, alpha=5),
    "rslora": LoRAConfig(rank=4, alpha=3, use_rslora=True),
    "dora": LoRAConfig(rank=2, alpha=6, use_dora=True),
}


def dense_with(configs, dtype="float32", random=True, seed=0):
    """A layer with an adapter for each config, all of them active with weight 1."""
    layer = Dense(UNITS, dtype=dtype, name="dense")
    layer.build((None, WIDTH))
    for name, config in configs.items():
        layer.add_adapter(name, config)
    rng = np.random.default_rng(seed)
    for name in configs if random else ():
        for part, variable in layer.adapters[name].variables.items():
            usual = 1.0 if part == "magnitude" else 0.0
            variable.assign(usual + 0.5 * rng.normal(size=variable.shape))
    layer.active = dict.fromkeys(configs, 1.0)
    return layer


def numbers(variable):
    return ops.convert_to_numpy(ops.cast(variable, "float32")).astype("float64")


def delta(layer, name, config, kernel=None):
    """What an adapter adds to the kernel, written out."""
    adapter = layer.adapters[name]
    kernel = numbers(layer._kernel) if kernel is None else kernel
    product = config.scale * numbers(adapter.a) @ numbers(adapter.b)
    if not config.use_dora:
        return product
    lengths = np.linalg.norm(kernel + product, axis=0)
    return numbers(adapter.magnitude) * (kernel + product) / lengths - kernel


def inputs(seed=1):
    return np.random.default_rng(seed).normal(size=(2, 5, WIDTH)).astype("float32")
