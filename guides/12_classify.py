# %% [markdown]
# # Sentiment, topics and names in a text
#
# Heads on `t5gemma2_tiny`, trained on data that comes with two packages: the sentiment of English
# words from VADER, and names in many languages from CLDR, which Babel holds. It takes a few minutes
# on two CPU cores:
#
#     pip install ".[jax,tiny]" vaderSentiment
#     KERAS_BACKEND=jax python guides/12_classify.py
#
# With a published preset the same lines make a head on a large model.

# %%
import pathlib
import random
import time

import keras
import numpy as np
import vaderSentiment
from babel import Locale

import keras_t5gemma2

keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Sentiment
#
# VADER's lexicon says of each word how ten people felt about it, from -4 to 4. A row is a word in a
# sentence; held out are words that no sentence of the training holds, though relatives of them
# (happy, happily) may be there.

# %%
lexicon = pathlib.Path(vaderSentiment.__file__).parent / "vader_lexicon.txt"
lines = [line.split("\t") for line in lexicon.read_text(encoding="utf-8").splitlines()]
felt = {word: float(value) for word, value, *_ in lines if word.isalpha() and len(word) > 4}
words = [word for word, value in felt.items() if abs(value) >= 1.5]
random.Random(0).shuffle(words)
training, held_out = words[:2_400], words[2_400:2_800]


def rows_of(words):
    texts = [f"I would call it {word}." for word in words]
    return texts, [int(felt[word] > 0) for word in words]


classifier = keras_t5gemma2.T5Gemma2TextClassifier.from_preset(
    "t5gemma2_tiny", num_classes=2, text_only=True, pooling="mean", encoder_only=True
)
epochs, batch_size = 6, 32
classifier.fit(*rows_of(training), epochs=epochs, batch_size=batch_size, verbose=2)
accuracy = classifier.evaluate(*rows_of(held_out), return_dict=True, verbose=0)["accuracy"]
most = np.bincount(rows_of(held_out)[1]).max() / len(held_out)
print(f"sentiment of words never seen: {accuracy:.1%} right; always the same: {most:.1%}")
for word in held_out[:5]:
    logits = classifier.predict(rows_of([word])[0], verbose=0)[0]
    print(f"  {word}: {['bad', 'good'][logits.argmax()]} (people: {felt[word]:+.1f})")

# %% [markdown]
# The same data as numbers: with one class the head learns how strong a feeling is.

# %%
regressor = keras_t5gemma2.T5Gemma2TextClassifier.from_preset(
    "t5gemma2_tiny", num_classes=1, text_only=True, pooling="mean", encoder_only=True
)
regressor.fit(
    rows_of(training)[0],
    [felt[word] for word in training],
    epochs=epochs,
    batch_size=batch_size,
    verbose=0,
)
found = regressor.predict(rows_of(held_out)[0], verbose=0)[:, 0]
correlation = np.corrcoef(found, [felt[word] for word in held_out])[0, 1]
print(f"correlation of feelings with those of people: {correlation:.2f}")

# %% [markdown]
# ## Topics
#
# What a name in one of ten languages is the name of: a country, a language, a currency or a month.

# %%
TOPICS = ["country", "language", "currency", "month"]
LANGUAGES = ["en", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "pl"]


def names(language):
    locale = Locale.parse(language)
    found = [
        [name for code, name in locale.territories.items() if len(code) == 2],
        [name for code, name in locale.languages.items() if len(code) == 2],
        list(locale.currencies.values())[:150],
        list(locale.months["format"]["wide"].values()),
    ]
    return [(name, topic) for topic, of_topic in enumerate(found) for name in of_topic]


pairs = [pair for code in LANGUAGES for pair in names(code)]
pairs = sorted(set(pairs))
random.Random(0).shuffle(pairs)
training, held_out = pairs[:3_000], pairs[3_000:3_500]
classifier = keras_t5gemma2.T5Gemma2TextClassifier.from_preset(
    "t5gemma2_tiny", num_classes=len(TOPICS), text_only=True
)
classifier.fit(training, epochs=3, batch_size=batch_size, verbose=2)
topics = classifier.evaluate(held_out, return_dict=True, verbose=0)["accuracy"]
most = np.bincount([topic for _, topic in held_out]).max() / len(held_out)
print(f"topics of names never seen: {topics:.1%} right; always the same: {most:.1%}")

# %% [markdown]
# ## Words
#
# A token classifier finds the countries in a text. Its labels are one for each word.

# %%
countries = sorted({name for name, topic in pairs if topic == 0 and " " not in name})
others = sorted({name for name, topic in pairs if topic == 1 and " " not in name})
random.Random(0).shuffle(countries)
shapes = ["We speak {0} in {1} now.", "From {1} to {2} they write {0}.", "{1} has no {0} song."]


def sentences(count, countries, seed):
    draw = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        names = [draw.choice(others), *draw.sample(countries, 2)]
        text = draw.choice(shapes).format(*names)
        texts.append(text)
        labels.append([int(word.strip(".") in names[1:]) for word in text.split()])
    return texts, labels


tagger = keras_t5gemma2.T5Gemma2TokenClassifier.from_preset(
    "t5gemma2_tiny", num_classes=2, text_only=True
)
tagger.fit(*sentences(640, countries[:-60], 0), epochs=2, batch_size=batch_size, verbose=2)
tagged = tagger.evaluate(*sentences(200, countries[-60:], 1), return_dict=True, verbose=0)
print(f"words with countries never seen: {tagged['accuracy']:.1%} right")
for text in sentences(3, countries[-60:], 2)[0]:
    found = [word.text for word in tagger.label_words(text) if word.label == 1]
    print(f"  {text} → {found}")

print(f"done in {time.time() - start:.0f} s")
