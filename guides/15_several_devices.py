# %% [markdown]
# # One model on several devices
#
# On JAX a model is spread over devices by one call before it is made: vocabulary, heads and MLPs
# over one axis of a mesh, rows over the other. Here four virtual devices of a CPU stand for four
# accelerators; the code for TPUs and GPUs is the same. It takes a minute or two on two CPU cores:
#
#     pip install ".[jax]" matplotlib
#     KERAS_BACKEND=jax python guides/15_several_devices.py
#
# Virtual devices share the cores of one CPU, so they save memory on each device and no time.

# %%
import os
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"  # not with accelerators

import datetime

import jax
import keras
import numpy as np

import keras_t5gemma2
from keras_t5gemma2 import distribution

start = time.time()
print(f"{jax.device_count()} devices: {jax.devices()[0].platform}")

# %% [markdown]
# ## Data

# %%
days = [datetime.date(1980, 1, 1) + datetime.timedelta(int(n)) for n in range(0, 19_200, 39)]
days = [days[i] for i in np.random.default_rng(0).permutation(len(days))]
rows = {
    "encoder_text": [f"Write {day} with dots." for day in days[:480]],
    "decoder_text": [f"{day:%d.%m.%Y}" for day in days[:480]],
}
questions = [f"Write {day} with dots." for day in days[480:484]]


# %% [markdown]
# ## One training, spread in three ways
#
# Each time the same weights, the same rows in the same order, and the same optimizer. `bytes_of`
# counts what the first device holds of the weights and of Adam's two numbers for each of them.


# %%
def bytes_of(lm):
    """The bytes on the first device of weights and optimizer."""
    first, total = jax.devices()[0], 0
    for variable in [*lm.weights, *lm.optimizer.variables]:
        shards = variable.value.addressable_shards
        total += sum(shard.data.nbytes for shard in shards if shard.device == first)
    return total


MESHES = {
    "one device": None,
    "rows over 4": {"model_parallel": 1},
    "rows over 2, model over 2": {"model_parallel": 2},
    "rows and weights over 4 (FSDP)": {"fsdp": True},
}
losses, sizes, answers = {}, {}, {}
for name, options in MESHES.items():
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(None)
    if options is not None:
        distribution.distribute("t5gemma2_tiny", **options)
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    lm.compile(optimizer=optimizer, sampler="greedy")
    history = lm.fit(rows, epochs=3, batch_size=32, verbose=0).history
    losses[name], sizes[name] = history["loss"], bytes_of(lm)
    answers[name] = lm.generate(questions, max_new_tokens=16, verbose=0)
    print(f"{name}: {sizes[name] / 1e6:.1f} MB on a device, last loss {losses[name][-1]:.4f}")

# %% [markdown]
# ## The same model
#
# Sums are taken in another order, so losses differ by rounding; what is written is the same.

# %%
for question, *written in zip(questions, *answers.values(), strict=True):
    print(f"{question} → {written[0]}, the same on all: {len(set(written)) == 1}")
apart = max(abs(np.array(values) / losses["one device"] - 1).max() for values in losses.values())
print(f"losses differ by at most {apart:.1e} of their size")

# %% [markdown]
# ## What a device holds

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
names = list(sizes)[::-1]
bars = axes.barh(names, [sizes[name] / 1e6 for name in names], color="tab:blue")
axes.bar_label(bars, fmt="%.1f MB", padding=3)
axes.set(
    xlabel="weights and optimizer on the first device, MB", xlim=(0, max(sizes.values()) / 8e5)
)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("several_devices.png", dpi=120)

# %% [markdown]
# ## Several processes, several machines
#
# A process per machine runs this same script after `keras.distribution.initialize`. From the
# command line:
#
# ```
# t5gemma2 finetune t5gemma2_tiny rows.jsonl --output run --processes 2
# ```
#
# starts the processes itself, on JAX and on PyTorch. `guides/07_data_parallel_torch.py` shows a
# loop of your own on PyTorch.

# %%
print(f"done in {time.time() - start:.0f} s")
