# %% [markdown]
# # Text and images in, text out
#
# This guide loads the small model inside the package, asks it by text, in many languages and with
# images, and shows every form of input. It needs no download and runs in well under a minute on
# two CPU cores with any of Keras's backends:
#
#     pip install ".[jax]" scikit-learn
#     KERAS_BACKEND=jax python guides/01_generate.py
#
# `t5gemma2_tiny` has all the parts of T5Gemma 2 and two million parameters. It knows four things:
# to spell numbers, to write dates, to translate the names of countries, languages and months, and
# to read handwritten digits. The published models take their place by another name (last section).

# %%
import time

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_t5gemma2

start = time.time()
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile(sampler="greedy")
print(f"{lm.backbone.count_params():,} parameters on {keras.backend.backend()}, ", end="")
print(f"loaded in {time.time() - start:.1f} s")

# %% [markdown]
# ## Text
#
# A string gives a string, and a list gives a list.

# %%
question = "Spell 4268 in English."
print(f"\n{question} → {lm.generate(question, max_new_tokens=32)}")

# %%
questions = [
    "Spell 4268 in German.",
    "Spell 4268 in Russian.",
    "Write 2026-12-17 in French.",
    "Write 2026-12-17 in Hindi.",
    "Write 2026-12-17 in Arabic.",
    "Translate Greece into Japanese.",
    "Translate Spanish into Turkish.",
    "Translate March into Ukrainian.",
]
for question, answer in zip(questions, lm.generate(questions, max_new_tokens=32), strict=True):
    print(f"{question} → {answer}")

# %% [markdown]
# ## Images
#
# Each `<start_of_image>` in the text stands for one image: a path, a Pillow image or an array, of
# any size. A row may have none, one or several. These images were not in the model's training.

# %%
digits = load_digits()
four, two = (np.uint8(digits.images[i] * (255 / 16)) for i in (4, 77))


def show(*images):
    """Prints gray images side by side, each pixel as two characters."""
    for lines in zip(*images, strict=True):
        print(
            "   ".join(
                "".join(" ░▒▓█"[int(pixel) * 5 // 256] * 2 for pixel in line) for line in lines
            )
        )


print()
show(four, two)
marker = "<start_of_image>"
rows = {
    "encoder_text": [
        f"{marker}Which number is this?",
        f"{marker}{marker}Which number is this?",
        f"{marker}{marker}Which number is this in Spanish?",
        "Spell 42 in Korean.",
    ],
    "images": [four, [four, two], [four, two], None],
}
for question, answer in zip(
    rows["encoder_text"], lm.generate(rows, max_new_tokens=32), strict=True
):
    print(f"{question.replace(marker, '[image]')} → {answer}")

# %% [markdown]
# ## What the decoder starts with
#
# `decoder_text` is what the answer begins with; `strip_prompt` leaves it out of the result.

# %%
prompt = {"encoder_text": "Spell 4268 in Italian.", "decoder_text": "quattromila"}
print("\nquattromila", "→", lm.generate(prompt, max_new_tokens=32, strip_prompt=True))

# %% [markdown]
# ## Gaps
#
# The model is also trained to fill in gaps, in the format of T5Gemma 2: `<unused6237>` is the first
# gap, `<unused6236>` the second, and so on down.

# %%
text = "2026-12-17 = <unused6237> 17 décembre <unused6236>"
print(f"\n{text} → {lm.generate(text, max_new_tokens=32)}")

# %% [markdown]
# ## Samplers and limits
#
# The sampler is chosen in `compile`, by name or as an object of keras-hub's. `max_length` counts
# the prompt's tokens, `max_new_tokens` does not; `stop_token_ids` end a row.

# %%
lm.compile(sampler="beam")
print("\nbeam search:", lm.generate("Spell 4268 in Polish.", max_new_tokens=32))

# %% [markdown]
# ## The published weights
#
# 1. Accept Google's terms on the page of the model, such as
#    https://huggingface.co/google/t5gemma-2-270m-270m, signed in.
# 2. Log in on this machine: `hf auth login`.
# 3. Load a preset by its name:
#
# ```python
# lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_270m_270m", dtype="bfloat16")
# lm.compile(sampler="greedy")
# lm.generate(
#     {"encoder_text": "<start_of_image> in this image, there is", "images": "bee.jpg"},
#     max_new_tokens=32,
# )
# ```

# %%
print("\npresets:", ", ".join(keras_t5gemma2.presets))
