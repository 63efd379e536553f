# %% [markdown]
# # Options of training
#
# Accumulated gradients, clipping, schedules, moving averages, mixed precision and weights are
# Keras's own options: `compile` and `fit` take them as for any other model. Here each of them
# helps to teach `t5gemma2_tiny` dates with dots, in a few minutes on two CPU cores with any of
# Keras's backends:
#
#     pip install ".[jax]" matplotlib
#     KERAS_BACKEND=jax python guides/05_training_options.py

# %%
import datetime
import time

import keras
import numpy as np

import keras_t5gemma2

PRESET = "t5gemma2_tiny"
keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Data
#
# Dates in another notation. What `fit` takes are rows in memory, as here, or anything to iterate
# over: a `keras.utils.PyDataset`, `tf.data`, grain, a torch `DataLoader` or a generator, of rows or
# of batches.

# %%
days = [datetime.date(1980, 1, 1) + datetime.timedelta(int(n)) for n in range(0, 19_200, 40)]
days = [days[i] for i in np.random.permutation(len(days))]


def rows_of(days):
    return {
        "encoder_text": [f"Write {day} with dots." for day in days],
        "decoder_text": [f"{day:%d.%m.%Y}" for day in days],
    }


held_out, rows = rows_of(days[:128]), rows_of(days[128:])
print(rows["encoder_text"][0], "→", rows["decoder_text"][0])


def answers(title):
    """Some answers on days kept apart, and how many of all of them are right."""
    written = lm.generate(held_out["encoder_text"], max_new_tokens=16, batch_size=128, verbose=0)
    right = np.mean([a == b for a, b in zip(written, held_out["decoder_text"], strict=True)])
    print(f"{title}: {right:.0%} right, for example")
    for question, answer in list(zip(held_out["encoder_text"], written, strict=True))[:3]:
        print(f"    {question} → {answer}")


lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(PRESET)
lm.compile(sampler="greedy")
# What is too long is an error that names the row, and not cut.
lm.preprocessor.truncate = False
answers("before")

# %% [markdown]
# ## Schedule, clipping, accumulation and averages: the optimizer
#
# Two batches of 16 rows make a step of 32, with the memory of 16. The rate rises for a tenth of the
# batches, which Keras's schedules count, and then falls; gradients are cut to a norm of 1. At the
# end of `fit` the weights become the moving average over its steps.

# %%
epochs, batch_size = 4, 16
batches = epochs * len(rows["encoder_text"]) // batch_size
rate = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=batches, warmup_target=2e-3, warmup_steps=batches // 10
)
lm.compile(
    optimizer=keras.optimizers.AdamW(
        rate,
        weight_decay=0.01,
        global_clipnorm=1.0,
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.8,
    ),
    sampler="greedy",
)
options = {"batch_size": batch_size, "verbose": 2}
history = lm.fit(rows, validation_data=held_out, epochs=epochs, **options).history
losses = history["val_loss"]
print(f"loss on rows kept apart: {losses[0]:.4f}, then {losses[-1]:.4f}")
answers("after")

# %% [markdown]
# `history` holds the loss, the share of right tokens, the rate and the tokens per second of each
# epoch. The loss on the training rows is a mean over the epoch, that on the others is taken after
# it.

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
numbers = range(1, epochs + 1)
for name, label in (("loss", "training"), ("val_loss", "kept apart")):
    left.plot(numbers, history[name])
    left.annotate(f" {label}", (numbers[0], history[name][0]), va="center")
left.set(xlabel="epoch", ylabel="loss per token", ylim=0, xticks=range(1, epochs + 1))
steps = np.arange(batches + 1)
right.plot(steps, [float(rate(step)) for step in steps])
right.set(xlabel="batch", ylabel="learning rate", ylim=0)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("training_options.png", dpi=120)

# %% [markdown]
# ## Weights
#
# `sample_weight` has a number per row, or one per label. A label is a token of the target and
# stands where the decoder predicts it. `class_weight` counts the labels of a token. The loss is the
# weighted mean over tokens; padding has no weight. Here are losses of the preset before training.

# %%
untrained = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(PRESET)
_, labels, present = untrained.preprocessor(held_out)
dot = lm.preprocessor.tokenizer.tokenize(".")[0]
after_two_dots = np.cumsum(labels == dot, axis=1) >= 2
for name, weights in {
    "each label alike": np.where(present > 0, 1.0, 0.0),
    "without the dots": np.where((present > 0) & (labels != dot), 1.0, 0.0),
    "the year alone": np.where((present > 0) & after_two_dots & (labels != dot), 1.0, 0.0),
}.items():
    loss = untrained.evaluate(held_out, sample_weight=weights, batch_size=64, verbose=0)[0]
    print(f"loss, {name}: {loss:.2f}")
again = lm.fit(rows, class_weight={dot: 0.1}, **options)

# %% [markdown]
# ## Mixed precision
#
# Computed in half precision, kept in float32. With `mixed_float16` Keras scales the loss, so that
# small gradients do not vanish, and leaves out a step whose gradients are not finite;
# `mixed_bfloat16` needs neither, and is what current accelerators are made for.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(PRESET, dtype="mixed_float16")
lm.compile(optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=1.0), sampler="greedy")
lm.fit(rows, epochs=3, **options)
print(
    f"{type(lm.optimizer).__name__}: loss times {float(lm.optimizer.dynamic_scale):,.0f}, "
    f"weights {lm.weights[0].dtype}, computed in {lm.backbone.compute_dtype}"
)
answers("after three epochs in float16")

# %% [markdown]
# ## What is trained
#
# The vision tower is frozen, as published. `lm.precompute` keeps what it makes of images, so that
# no epoch computes it again (guides/03_images.py). Set `trainable` before `compile` to train it
# too, or to freeze more.

# %%
for trainable in (False, True):
    if lm.backbone.vision is not None:
        lm.backbone.vision.tower.trainable = trainable
    count = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
    print(f"vision.tower.trainable={trainable}: {count:,} of {lm.count_params():,} are trained")
print(f"done in {time.time() - start:.0f} s")
