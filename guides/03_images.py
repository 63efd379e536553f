# %% [markdown]
# # Fine-tune on images
#
# `t5gemma2_tiny` reads handwritten digits. Here it learns to answer something new about them: the
# sum of two digit images. Its vision tower stays frozen, as published recipes have it, so the
# tower's features of each image are computed once and serve every epoch:
#
#     pip install ".[jax,evaluation]" scikit-learn
#     KERAS_BACKEND=jax python guides/03_images.py

# %%
import time
import zlib

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_t5gemma2
from keras_t5gemma2 import evaluate_generation

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Data
#
# Two markers in the text, two images in the row. One image in seven is kept for the measurement:
# those that the model itself was not trained on.

# %%
digits = load_digits()
images = np.uint8(digits.images * (255 / 16))
held_out = [i for i in range(len(images)) if zlib.crc32(f"image {i}".encode()) % 7 == 0]
kept = set(held_out)
seen = [i for i in range(len(images)) if i not in kept]


def pairs(indices, count):
    chosen = rng.choice(indices, (count, 2))
    return {
        "encoder_text": ["<start_of_image><start_of_image>What is the sum?"] * count,
        "images": [[images[a], images[b]] for a, b in chosen],
        "decoder_text": [str(digits.target[a] + digits.target[b]) for a, b in chosen],
    }


training, test = pairs(seen, 3_000), pairs(held_out, 200)

# %% [markdown]
# ## Before

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile(sampler="greedy")
options = {"metrics": ["exact_match"], "batch_size": 100, "max_new_tokens": 4}
before = evaluate_generation(lm, test, **options)

# %% [markdown]
# ## Features, once
#
# `precompute` gives the same rows back, each image replaced by what the tower makes of it. `fit`,
# `evaluate` and `generate` take them like images.

# %%
start = time.time()
features = lm.precompute(training, batch_size=100)
print(f"features of {2 * len(training['images']):,} images in {time.time() - start:.0f} s")

# %% [markdown]
# ## Training
#
# Rows are padded to fixed lengths: these are short, so that little of a step is padding.

# %%
lm.preprocessor.encoder_sequence_length = 32
lm.preprocessor.decoder_sequence_length = 8
epochs, batch_size = 8, 50
steps = epochs * len(training["images"]) // batch_size
rate = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=steps, warmup_target=1e-3, warmup_steps=steps // 20
)
lm.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), sampler="greedy")
lm.fit(features, batch_size=batch_size, epochs=epochs, verbose=2)

# %% [markdown]
# ## After

# %%
after = evaluate_generation(lm, test, **options)
after.base = before
print(f"\n{after}")


def show(*images):
    """Prints gray images side by side, each pixel as two characters."""
    for lines in zip(*images, strict=True):
        print(
            "   ".join(
                "".join(" ░▒▓█"[int(pixel) * 5 // 256] * 2 for pixel in line) for line in lines
            )
        )


show(*test["images"][0])
print("What is the sum? →", after.predictions[0])

# %% [markdown]
# ## What the features save
#
# The learning rate has come down to zero, so that further epochs change nothing: one with the
# features and one with the images, each after a first one that compiles.

# %%
seconds = {}
for name, rows in (("features", features), ("images", training)):
    lm.fit(rows, batch_size=batch_size, epochs=1, verbose=0)
    start = time.time()
    lm.fit(rows, batch_size=batch_size, epochs=1, verbose=0)
    seconds[name] = time.time() - start
print(f"an epoch with features takes {seconds['features'] / seconds['images']:.2f} of the time")
