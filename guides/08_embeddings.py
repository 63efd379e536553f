# %% [markdown]
# # Vectors of texts: names of one day, near each other in 26 languages
#
# The encoder alone makes a vector of a text. Here it learns that 12월 17일, 17 декабря and
# December 17 are the same day of the year, in minutes on two CPU cores:
#
#     pip install ".[jax]" babel matplotlib
#     KERAS_BACKEND=jax python guides/08_embeddings.py
#
# With a published preset the same lines make a search engine of a large model.

# %%
import datetime
import time

import keras
import numpy as np
from babel.dates import format_skeleton

import keras_t5gemma2

keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Data
#
# The names of days come from the CLDR, by Babel. A tenth of them is held out: of such a day, the
# model never sees the name in that language. It knows the parts from other days, and must learn
# which part of a name says what, wherever it stands: "17 tháng 12", "१७ दिसंबर". (A name like 독일
# shares no part with another; a model must have read it somewhere. Of names of countries,
# languages and months, held out alike, 55 % were found after 12 epochs.)

# %%
languages = (
    *("de", "fr", "es", "it", "pt", "ro", "nl", "sv", "da", "pl", "cs", "hu", "tr", "id", "vi"),
    *("ru", "uk", "el", "he", "ar", "hi", "th", "ja", "ko", "zh"),
)
days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=number) for number in range(366)]


def names_of(language):
    """The names of all days in a language."""
    return [format_skeleton("MMMMd", day, locale=language) for day in days]


names = {language: names_of(language) for language in ["en", *languages]}
count = len(names["en"])
cells = [(language, thing) for language in languages for thing in range(count)]
held_out = {cells[place] for place in np.random.permutation(len(cells))[: len(cells) // 10]}
# A name that is also one in training would be no test.
training = [cell for cell in cells if cell not in held_out]
seen = {names[language][thing] for language, thing in training}
queries = [cell for cell in sorted(held_out) if names[cell[0]][cell[1]] not in seen]
print(f"{count} days, {len(training)} names in training, {len(queries)} held out")

# %% [markdown]
# ## Before
#
# `from_preset` reads the encoder alone: of these 2 million parameters 1.3, of the 270M model's
# 368 million of text 268. Vectors have the length 1, so that products are cosines. The nearest
# of all names in training says which thing a held-out name means.

# %%
embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny", text_only=True)
known = [("en", thing) for thing in range(count)] + training


def text_of(cells):
    return [names[language][thing] for language, thing in cells]


def retrieval():
    """The part of held-out names whose nearest name is one of the same thing."""
    found = embedder.similarity(
        embedder.encode_text(text_of(queries), batch_size=128),
        embedder.encode_text(text_of(known), batch_size=128),
    )
    nearest = [known[place] for place in found.argmax(axis=1)]
    right = [near[1] == cell[1] for near, cell in zip(nearest, queries, strict=True)]
    return float(np.mean(right)), nearest


before, _ = retrieval()
print(f"before: {before:.1%} of held-out names lie nearest to a name of the same thing")
untuned = embedder.encode_text(text_of(known), batch_size=128)

# %% [markdown]
# ## Train
#
# Each name is a query, and another name of the same thing its document; the documents of the other
# rows of a batch are wrong for it. `EmbeddingLoss` is that of EmbeddingGemma. Its vectors can be
# cut: here to 64 and 32 numbers.

# %%
by_thing = {thing: [cell for cell in known if cell[1] == thing] for thing in range(count)}
epochs, batch_size = 3, 128


def pairs():
    rows = np.random.permutation(len(known))
    others = [by_thing[known[row][1]] for row in rows]
    chosen = [cells[np.random.randint(len(cells))] for cells in others]
    return {"query": text_of(known[row] for row in rows), "document": text_of(chosen)}


loss = keras_t5gemma2.EmbeddingLoss(dimensions=[128, 64, 32])
embedder.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=1.0), loss=loss)
for epoch in range(epochs):
    history = embedder.fit(pairs(), batch_size=batch_size, verbose=0).history
    print(f"epoch {epoch + 1}: loss {history['loss'][0]:.3f}")

# %% [markdown]
# ## After

# %%
after, nearest = retrieval()
print(f"\nafter: {after:.1%} (before: {before:.1%})")
for cell, near in list(zip(queries, nearest, strict=True))[:: len(queries) // 6]:
    print(f"{text_of([cell])[0]} → {text_of([near])[0]} ({names['en'][near[1]]})")

# %% [markdown]
# ## A map
#
# Each dot is a name, on the two directions in which vectors of all names differ most; six days
# have a color each.

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

things = [number for number, day in enumerate(days) if day.day == 17 and day.month % 2]
figure, both = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
tuned = embedder.encode_text(text_of(known), batch_size=128)
for axes, vectors, title in zip(both, (untuned, tuned), ("before", "after"), strict=True):
    shown = np.array([thing in things for _, thing in known])
    centered = vectors - vectors[shown].mean(axis=0)
    directions = np.linalg.svd(centered[shown], full_matrices=False)[2][:2]
    x, y = directions @ centered.T
    axes.scatter(x, y, s=2, color="lightgray")
    for thing in things:
        of_thing = [place for place, cell in enumerate(known) if cell[1] == thing]
        axes.scatter(x[of_thing], y[of_thing], s=14, label=names["en"][thing])
    axes.set(title=f"{title}: names in 26 languages", xticks=[], yticks=[])
both[1].legend(loc="best", fontsize=8)
figure.savefig("embeddings_map.png", dpi=120)
print("\nmap: embeddings_map.png")

# %% [markdown]
# ## Elsewhere
#
# `export_to_sentence_transformers` writes a directory for that library, which gives the same
# vectors; `save_to_preset` one for `T5Gemma2TextEmbedder.from_preset`. Vectors of 32 numbers
# take a quarter of the room:

# %%
short = embedder.encode_text(["12월 17일", "17 декабря", "17 mai"], dimensions=32)
print(f"12월 17일 and 17 декабря: {embedder.similarity(short[0], short[1])[0, 0]:.2f}", end=", ")
print(f"12월 17일 and 17 mai: {embedder.similarity(short[0], short[2])[0, 0]:.2f}")
print(f"done in {time.time() - start:.0f} s")
