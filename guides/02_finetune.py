# %% [markdown]
# # Teach a language with LoRA
#
# `t5gemma2_tiny` writes dates in 26 languages. Finnish is not one of them: no Finnish text was in
# its training. Here it learns Finnish dates from examples, by adapters on frozen weights, in less
# than five minutes on two CPU cores:
#
#     pip install ".[jax,evaluation]" babel matplotlib
#     KERAS_BACKEND=jax python guides/02_finetune.py
#
# With a published preset the same lines adapt a large model.

# %%
import datetime
import pathlib
import tempfile
import time

import keras
import numpy as np
from babel.dates import format_date

import keras_t5gemma2
from keras_t5gemma2 import evaluate_generation

keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Data
#
# `fit` takes what a row's encoder reads and what its decoder shall write. Days are shuffled, and
# the last 200 of them are kept for the measurement.

# %%
first = datetime.date(1950, 1, 1)
days = [first + datetime.timedelta(int(n)) for n in np.random.permutation(36_500)[:2_200]]


def rows_of(days):
    return {
        "encoder_text": [f"Write {day} in Finnish." for day in days],
        "decoder_text": [format_date(day, "long", locale="fi") for day in days],
    }


training, held_out = rows_of(days[:2_000]), rows_of(days[2_000:])
print(training["encoder_text"][0], "→", training["decoder_text"][0])

# %% [markdown]
# ## Before
#
# The model has seen the word Finnish, but not the language.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile(sampler="greedy")
options = {"metrics": ["exact_match", "chrf"], "batch_size": 100, "max_new_tokens": 32}
before = evaluate_generation(lm, held_out, **options)
print(f"before: exact match {before['exact_match']:.1f} %, for example {before.predictions[0]!r}")

# %% [markdown]
# ## Adapters
#
# One call: the seven projections of every layer of both stacks get two small matrices each, and
# everything else is frozen.

# %%
base = [weight.numpy().copy() for weight in lm.weights]
lm.enable_lora(rank=16, alpha=32)
trainable = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
print(f"{trainable:,} of {lm.count_params():,} parameters are trained")

# %% [markdown]
# ## Training
#
# Rows are padded to fixed lengths: these are short, so that little of a step is padding.

# %%
lm.preprocessor.encoder_sequence_length = 24
lm.preprocessor.decoder_sequence_length = 24
epochs, batch_size = 4, 64
rate = keras.optimizers.schedules.CosineDecay(
    0.0,
    decay_steps=epochs * len(days[:2_000]) // batch_size,
    warmup_target=4e-3,
    warmup_steps=20,
)
lm.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), sampler="greedy")
history = lm.fit(training, batch_size=batch_size, epochs=epochs, verbose=2).history

# %% [markdown]
# ## After

# %%
after = evaluate_generation(lm, held_out, **options)
after.base = before
print(f"\n{after}")
for question, answer in list(zip(held_out["encoder_text"], after.predictions, strict=True))[:3]:
    print(question, "→", answer)

# %% [markdown]
# ## The loss curve

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(range(1, epochs + 1), history["loss"], marker="o")
axes.set(xlabel="epoch", ylabel="loss per token", yscale="log", title="LoRA on Finnish dates")
figure.savefig("finetune_loss.png", dpi=120)
print("\nloss curve: finetune_loss.png")

# %% [markdown]
# ## Save, reload and merge
#
# The adapter alone is one small file. Any copy of the base model takes it up again; merged into the
# base weights it costs nothing at generation. Without it the base is what it was.

# %%
path = pathlib.Path(tempfile.mkdtemp()) / "finnish.safetensors"
lm.save_adapter(path)
print(f"adapter: {path.stat().st_size / 1e6:.2f} MB")

again = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
again.load_adapter(path)
again.merge_adapter()
again.compile(sampler="greedy")
question = "Write 2026-12-06 in Finnish."
print(f"reloaded and merged: {question} → {again.generate(question, max_new_tokens=32)}")

lm.set_adapter(None)
print(f"without the adapter: {question} → {lm.generate(question, max_new_tokens=32)}")
lm.remove_adapter("default")
unchanged = all(np.array_equal(a, b.numpy()) for a, b in zip(base, lm.weights, strict=True))
print(f"base weights unchanged: {unchanged}")
print(f"done in {time.time() - start:.0f} s")
