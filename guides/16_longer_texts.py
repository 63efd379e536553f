# %% [markdown]
# # Texts longer than those of the training
#
# A layer of full attention tells tokens apart by how far away they are, and distances that it has
# never seen mean nothing to it. Position interpolation divides all positions by a factor, so that
# a longer text has the distances of a short one, only closer together. Here a small model learns
# to answer questions about texts of 512 tokens, is asked about texts of up to 2,048, fails, and
# then does it with `from_preset(..., rope_factor=4)`, in minutes on two CPU cores:
#
#     pip install ".[jax]" matplotlib
#     KERAS_BACKEND=jax python guides/16_longer_texts.py
#
# Published T5Gemma 2 models are made for 131,072 tokens, with a factor of 8 already: there the
# same line goes beyond that.

# %%
import pathlib
import tempfile
import time

import keras
import numpy as np

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
)

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
start = time.time()

# %% [markdown]
# ## Needles in a haystack
#
# A text is noise with six needles in it, each a key and a value in one token, at places drawn by
# lot. The last token asks for one of the keys, and the answer is its value. A model that guesses
# is right once in eight times.

# %%
KEYS, VALUES, NEEDLES = 8, 8, 6
BOS, EOS = 2, 1
NEEDLE, QUESTION, ANSWER, NOISE, END = np.cumsum([8, KEYS * VALUES, KEYS, VALUES, 72])


def texts(count, length):
    """Arrays as the model takes them, and the labels."""
    ids = rng.integers(NOISE, END, (count, length), dtype="int32")
    values = np.zeros(count, "int32")
    for row in range(count):
        places = rng.choice(np.arange(1, length - 1), NEEDLES, replace=False)
        keys, of_keys = rng.permutation(KEYS)[:NEEDLES], rng.integers(VALUES, size=NEEDLES)
        ids[row, places] = NEEDLE + VALUES * keys + of_keys
        ids[row, -1], values[row] = QUESTION + keys[0], of_keys[0]
    ids[:, 0] = BOS
    answers = np.stack([np.full(count, BOS), ANSWER + values, np.full(count, EOS)], axis=1)
    inputs = {"encoder_token_ids": ids, "decoder_token_ids": answers[:, :-1]}
    masks = {n.replace("token_ids", "padding_mask"): np.ones_like(x) for n, x in inputs.items()}
    return {**inputs, **masks}, answers[:, 1:]


# %% [markdown]
# ## A small model
#
# The encoder has one layer with a window and one of full attention, which alone can bring a
# needle to the question. The decoder sees eight tokens at a time, and reads the answer.

# %%
local = AttentionConfig(4, 4, 16, window=8, query_pre_attn_scalar=16)
full = AttentionConfig(4, 4, 16, rope_theta=2_000, query_pre_attn_scalar=16)
config = BackboneConfig(
    vocabulary_size=int(END),
    encoder=StackConfig(64, 128, (local, full)),
    decoder=StackConfig(64, 128, (local,)),
    end_of_image_token_id=None,
    image_token_id=None,
)
lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config))
for weight in lm.backbone.weights:  # the usual weights of 0.02 suit wide models
    if len(weight.shape) == 2:
        fan_in = config.hidden_dim if "embed" in weight.path else weight.shape[0]
        weight.assign(rng.normal(size=weight.shape) * fan_in**-0.5)


def train(lm, length, count, batch_size, rate):
    optimizer = keras.optimizers.Adam(rate, clipnorm=1.0)
    lm.compile(optimizer=optimizer, sampler="greedy")
    return lm.fit(*texts(count, length), batch_size=batch_size, verbose=2).history


def accuracy(lm, length, count=128):
    """The share of answers that are right, in per cent."""
    inputs, labels = texts(count, length)
    likeliest = np.argmax(lm.predict(inputs, batch_size=16, verbose=0), axis=-1)
    return 100 * float(np.mean(likeliest[:, 0] == labels[:, 0]))


# %% [markdown]
# ## Train
#
# On texts of 32 tokens first, where a needle is quickly found, then on longer ones up to 512.

# %%
train(lm, 32, 64 * 700, 64, 2e-3)
train(lm, 128, 32 * 100, 32, 1e-3)
train(lm, 512, 16 * 100, 16, 1e-3)

# %% [markdown]
# ## Longer texts, with and without
#
# `rope_factor` is saved with the model, so that what is tuned with it is loaded with it. A few
# steps on long texts are what a large model needs to get used to it.

# %%
LENGTHS = (128, 512, 1_024, 2_048)
directory = pathlib.Path(tempfile.mkdtemp())
lm.save_to_preset(directory / "short")
found = {}
for factor in (1, 2, 4):
    longer = T5Gemma2Seq2SeqLM.from_preset(directory / "short", rope_factor=factor)
    found[f"factor {factor}"] = [accuracy(longer, length) for length in LENGTHS]
train(longer, 2_048, 8 * 20, 8, 1e-4)
found["factor 4, tuned"] = [accuracy(longer, length) for length in LENGTHS]
longer.save_to_preset(directory / "long")
assert T5Gemma2Backbone.from_preset(directory / "long").config == longer.backbone.config

print(f"{'tokens':>16}", *(f"{length:>6}" for length in LENGTHS))
for name, shares in found.items():
    print(f"{name:>16}", *(f"{share:5.0f}%" for share in shares))

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, shares in found.items():
    axes.plot(LENGTHS, shares, marker="o", label=name)
axes.axhline(100 / VALUES, color="0.7", linestyle=":")
axes.text(LENGTHS[0], 100 / VALUES + 2, "guessing", color="0.5")
axes.axvspan(LENGTHS[0] * 0.9, 512, color="0.93")
axes.text(140, 25, "lengths of the training", color="0.4")
axes.set(xscale="log", xticks=LENGTHS, xticklabels=LENGTHS, xlim=(LENGTHS[0] * 0.9, 2_300))
axes.minorticks_off()
axes.set(xlabel="tokens of the text", ylabel="right answers, %", ylim=(0, 105))
axes.legend(frameon=False, loc="center left")
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("longer_texts.png", dpi=120)
print(f"\ndone in {time.time() - start:.0f} s")
