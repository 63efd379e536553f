# %% [markdown]
# # Options of training
#
# Accumulated gradients, clipping, schedules, moving averages, mixed precision and weights are
# Keras's own options: `compile` and `fit` take them as for any other model. This guide shows each
# on a few steps, in about a minute on two CPU cores with any of Keras's backends:
#
#     KERAS_BACKEND=jax python guides/05_training_options.py

# %%
import datetime

import keras
import numpy as np

import keras_t5gemma2

PRESET = "t5gemma2_tiny"
keras.utils.set_random_seed(0)

# %% [markdown]
# ## Data
#
# Dates in another notation. What `fit` takes are rows in memory, as here, or anything to iterate
# over: a `keras.utils.PyDataset`, `tf.data`, grain, a torch `DataLoader` or a generator, of rows or
# of batches.

# %%
days = [datetime.date(1980, 1, 1) + datetime.timedelta(int(n)) for n in range(0, 9_600, 50)]
rows = {
    "encoder_text": [f"Write {day} with dots." for day in days],
    "decoder_text": [f"{day:%d.%m.%Y}" for day in days],
}
print(rows["encoder_text"][0], "→", rows["decoder_text"][0])

lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(PRESET)
lm.preprocessor.encoder_sequence_length = 32
lm.preprocessor.decoder_sequence_length = 16
# What is too long is an error that names the row, and not cut.
lm.preprocessor.truncate = False

# %% [markdown]
# ## Schedule, clipping, accumulation and averages: the optimizer
#
# Two batches of 16 rows make a step of 32, with the memory of 16. The rate rises for 4 steps of the
# optimizer and then falls; gradients are cut to a norm of 1. At the end of `fit` the weights become
# the moving average over its steps.

# %%
updates = 2 * len(days) // 32
rate = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=updates, warmup_target=2e-3, warmup_steps=4
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
options = {"batch_size": 16, "verbose": 2}
history = lm.fit(rows, validation_split=0.25, epochs=2, **options).history
print(f"loss on rows kept apart: {history['val_loss'][0]:.2f}, then {history['val_loss'][1]:.2f}")

# %% [markdown]
# ## Weights
#
# `sample_weight` has a number per row, or one per label: here the year counts three times. A label
# is a token of the target and stands where the decoder predicts it. `class_weight` counts the
# labels of a token. The loss is the weighted mean over tokens; padding has no weight.

# %%
_, labels, _ = lm.preprocessor(rows)
year = np.cumsum(labels == lm.preprocessor.tokenizer.tokenize(".")[0], axis=1) >= 2
for name, weights in {
    "each row alike": np.ones(len(days)),
    "later days more": np.linspace(0.5, 1.5, len(days)),
    "the year three times": np.where(year, 3.0, 1.0),
}.items():
    loss = lm.evaluate(rows, sample_weight=weights, batch_size=16, verbose=0)[0]
    print(f"{name}: {loss:.3f}")
dot = lm.preprocessor.tokenizer.tokenize(".")[0]
lm.fit(rows, class_weight={dot: 0.1}, **options)

# %% [markdown]
# ## Mixed precision
#
# Computed in half precision, kept in float32. With `mixed_float16` Keras scales the loss, so that
# small gradients do not vanish, and leaves out a step whose gradients are not finite;
# `mixed_bfloat16` needs neither, and is what current accelerators are made for.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(PRESET, dtype="mixed_float16")
lm.preprocessor.encoder_sequence_length = 32
lm.preprocessor.decoder_sequence_length = 16
lm.compile(optimizer=keras.optimizers.Adam(1e-3), sampler="greedy")
lm.fit(rows, **options)
print(
    f"{type(lm.optimizer).__name__}: loss times {float(lm.optimizer.dynamic_scale):,.0f}, "
    f"weights {lm.weights[0].dtype}, computed in {lm.backbone.compute_dtype}"
)

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
