# %% [markdown]
# # Summaries of long inputs
#
# An encoder-decoder reads a whole text before it writes, and each written word looks back at all
# of it. Here `t5gemma2_tiny`, which has seen no text of more than 64 tokens, learns to read
# travel diaries of up to 512 and to write down where the journey went, in minutes on two CPU
# cores:
#
#     pip install ".[jax,evaluation]" babel matplotlib
#     KERAS_BACKEND=jax python guides/14_summaries.py
#
# With a published preset the same lines read 131,072 tokens.

# %%
import random
import time
import warnings

import keras
import numpy as np
from babel import Locale

import keras_t5gemma2
from keras_t5gemma2 import evaluate_generation

keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Diaries
#
# A diary holds sentences about the weather, the food and the money, and two to four about a
# border that was crossed. The summary is the list of the countries, in the order of the journey.
# Countries are named elsewhere too: who only looks for names gets it wrong.

# %%
COUNTRIES = [
    name
    for code, name in sorted(Locale.parse("en").territories.items())
    if len(code) == 2 and name.isalpha() and len(name) < 9
]
FILLERS = [
    "It rained for {number} hours.",
    "We paid {number} coins for the boat.",
    "The soup from {country} was cold.",
    "A man sang songs of {country}.",
    "Room {number} was too small.",
    "We slept badly.",
]


def diary(length, draw):
    """A text of about `length` sentences, and its summary."""
    stops = draw.sample(COUNTRIES, draw.randint(2, 4))
    places = sorted(draw.sample(range(length), len(stops)))
    sentences = []
    for place in range(length):
        if place in places:
            sentences.append(f"We came to {stops[places.index(place)]}.")
        else:
            sentence = draw.choice(FILLERS)
            number, country = draw.randint(2, 99), draw.choice(COUNTRIES)
            sentences.append(sentence.format(number=number, country=country))
    return "Summarize: " + " ".join(sentences), ", ".join(stops)


def rows_of(lengths, seed):
    draw = random.Random(seed)
    texts, summaries = zip(*(diary(length, draw) for length in lengths), strict=True)
    return {"encoder_text": list(texts), "decoder_text": list(summaries)}


lengths = np.random.default_rng(0).integers(4, 9, 2_000).tolist()
training = rows_of(lengths, seed=1)
tests = {length: rows_of([length] * 100, seed=length) for length in (4, 8, 12, 16)}
print(tests[4]["encoder_text"][0], "→", tests[4]["decoder_text"][0])

# %% [markdown]
# ## Nothing is cut in silence
#
# A preset says how many tokens its model reads: this one 64. A longer text is an error or, with
# `truncate=True`, cut with a warning that names the row. `encoder_sequence_length` raises the cap.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
lm.compile(sampler="greedy")
tokens = {
    length: int(np.mean([len(ids) for ids in lm.preprocessor.tokenizer(rows["encoder_text"])]))
    for length, rows in tests.items()
}
print("tokens of a diary:", ", ".join(f"{n} sentences {count}" for n, count in tokens.items()))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    lm.generate(tests[16]["encoder_text"][:1], max_new_tokens=8, verbose=0)
print(*[warning.message for warning in seen if "tokens" in str(warning.message)])

lm.preprocessor.set_lengths(encoder_sequence_length=512)

# %% [markdown]
# ## Before

# %%
options = {"metrics": ["exact_match", "chrf"], "batch_size": 50, "max_new_tokens": 40, "verbose": 0}


def measure(title):
    found = {length: evaluate_generation(lm, rows, **options) for length, rows in tests.items()}
    for length, result in found.items():
        print(f"{title}, {length} sentences: {result['exact_match']:.0f} % exact", end=", ")
        print(f"chrF {result['chrf']:.0f}; {result.predictions[0]!r}")
    return {length: result["exact_match"] for length, result in found.items()}


before = measure("before")

# %% [markdown]
# ## Train
#
# On diaries of 4 to 8 sentences. `fit` pads each batch to its own longest row, and rows of like
# length share batches.

# %%
epochs, batch_size = 6, 32
steps = epochs * len(lengths) // batch_size
rate = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=steps, warmup_target=2e-3, warmup_steps=steps // 20
)
lm.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), sampler="greedy")
history = lm.fit(training, batch_size=batch_size, epochs=epochs, verbose=2).history

# %% [markdown]
# ## After
#
# Diaries of 12 and 16 sentences are longer than any of the training.

# %%
after = measure("after")
text, summary = tests[8]["encoder_text"][1], tests[8]["decoder_text"][1]
print(f"\n{text}\n→ {lm.generate(text, max_new_tokens=40, verbose=0)} (asked: {summary})")

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.plot(range(1, epochs + 1), history["loss"])
left.set(
    xlabel="epoch", ylabel="loss per token", ylim=0, xticks=range(1, epochs + 1), title="Training"
)
for name, values in (("after", after), ("before", before)):
    right.plot([tokens[length] for length in values], list(values.values()), marker="o")
    right.annotate(f"  {name}", (tokens[16], values[16]), va="center")
right.axvspan(0, tokens[8], color="0.93")
right.text(8, 50, "lengths of\nthe training", color="0.4")
right.set(xlabel="tokens of the diary", ylabel="exact summaries, %", title="Diaries never seen")
right.set(xlim=(0, tokens[16] * 1.2), ylim=(-3, 103))
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("summaries.png", dpi=120)
print(f"\ndone in {time.time() - start:.0f} s")
