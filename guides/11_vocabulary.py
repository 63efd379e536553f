# %% [markdown]
# # A vocabulary for one language pair
#
# The embedding table is most of a small T5Gemma 2: 168 of the 368 million text weights of the 270M
# model, and each token that is written reads all of it. A job in two languages needs a small part
# of its 262,144 tokens. `prune_vocabulary` keeps that part, here for English and German, and
# `extend_vocabulary` adds words that the job has a token for from then on:
#
#     pip install ".[jax,tiny]"
#     KERAS_BACKEND=jax python guides/11_vocabulary.py
#
# It runs in about a minute on two CPU cores, on the model inside the package. With a published
# preset the lines are the same.

# %%
import datetime
import pathlib
import tempfile

import keras
import numpy as np
from babel.dates import format_date
from num2words import num2words

import keras_t5gemma2

# %% [markdown]
# ## The texts of the job
#
# Whatever the model will read and write: rows as `fit` takes them. What is left out of them says
# later how much a smaller vocabulary loses.

# %%
rng = np.random.default_rng(0)
numbers = rng.permutation(10_000)[:1_200].tolist()
days = [datetime.date(2000, 1, 1) + datetime.timedelta(int(n)) for n in rng.permutation(9_000)]


def rows_of(numbers, days):
    return {
        "encoder_text": [f"Spell {number} in German." for number in numbers]
        + [f"Write {day} in German." for day in days],
        "decoder_text": [num2words(number, lang="de") for number in numbers]
        + [format_date(day, "long", locale="de") for day in days],
    }


rows, held_out = rows_of(numbers[:1_000], days[:1_000]), rows_of(numbers[1_000:], days[1_000:1_200])
print(rows["encoder_text"][0], "→", rows["decoder_text"][0])

# %% [markdown]
# ## Fewer tokens
#
# A new model comes back; the old one stays as it is. Every token comes with the tokens that it is
# merged of, so that text of kept tokens is split as before, and gets the same logits. What is
# gone is spelled in smaller pieces, in bytes at worst. `size=32_768` would keep the most frequent
# tokens, and `languages=["en", "de"]` (extra `languages`) the tokens of frequent words where there
# is no text of the job yet.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile(sampler="greedy")
small = lm.prune_vocabulary(rows, held_out=held_out)
print(small.pruning)

# %% [markdown]
# ## The same answers
#
# Of the first rows that were held out, by both models; and the likelihood of all held-out answers.

# %%
prompts, answers = held_out["encoder_text"][::40], held_out["decoder_text"][::40]
for prompt, before, after in zip(
    prompts, lm.generate(prompts), small.generate(prompts), strict=True
):
    print(f"{prompt} → {before}" + ("" if before == after else f", but now {after}"))
before, after = (float(np.mean(model.score(held_out))) for model in (lm, small))
print(f"log-probability of an answer: {before:.4f}, and with fewer tokens {after:.4f}")

# %% [markdown]
# The second is higher, as what goes to tokens that are gone is shared out among the others.
#
# ## More tokens
#
# A word of the job that takes many tokens gets one of its own, which starts as the mean of them.
# It has to be learned: the model has never written it.

# %%
words = ["Zahnärztin", "Krankenversicherung"]
larger = small.extend_vocabulary(words)
pairs = {
    "encoder_text": ["dentist, in German", "health insurance, in German"],
    "decoder_text": words,
}
for word in words:
    print(word, len(small.preprocessor.tokenizer(word)), "tokens, now", end=" ")
    print(len(larger.preprocessor.tokenizer(word)))
larger.compile(keras.optimizers.AdamW(1e-3), sampler="greedy")
larger.fit({name: values * 16 for name, values in pairs.items()}, epochs=20, verbose=0)
print(larger.generate(pairs["encoder_text"], max_new_tokens=8))

# %% [markdown]
# ## To others
#
# Every format holds the new vocabulary: presets, transformers, keras-hub. Adapters that were
# trained on one model fit the others too: they are on the layers of the stacks.

# %%
with tempfile.TemporaryDirectory() as directory:
    larger.export_to_transformers(pathlib.Path(directory) / "german")
    again = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(pathlib.Path(directory) / "german")
    again.compile(sampler="greedy")
    print(again.generate(pairs["encoder_text"], max_new_tokens=8))
