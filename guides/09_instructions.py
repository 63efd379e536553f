# %% [markdown]
# # Teach a model to follow instructions in a dialogue
#
# `t5gemma2_tiny` answers one question at a time. Here it learns to keep up a dialogue in which each
# turn changes what is wanted: another language, another value, another form, a shorter answer. It
# takes some minutes on two CPU cores:
#
#     pip install ".[jax]" babel num2words matplotlib
#     KERAS_BACKEND=jax python guides/09_instructions.py
#
# With a published preset the same lines tune a large model on your own dialogues.

# %%
import datetime
import time
import zlib

import keras
import num2words
import numpy as np
from babel.dates import format_date

import keras_t5gemma2

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
start = time.time()

# %% [markdown]
# ## What an instruction asks for
#
# An instruction has up to four kinds of words in it. A dialogue gives them one after another, and
# what was said before holds until it is changed:
#
# | kind | first turn | later turns |
# | --- | --- | --- |
# | task | "Spell 42 in French.", "Write 2026-12-17 in French." | |
# | content | the value | "And 43?", "And 1999-01-02?" |
# | style | the language, perhaps quotes | "And in German?", "In quotes.", "Without quotes." |
# | limits | | "Only the first word.", "All of it." |
#
# What the system says holds for all of the dialogue: here, that answers stand in quotes.

# %%
LANGUAGES = {"English": "en", "German": "de", "French": "fr", "Spanish": "es"}
SYSTEM = "Answer in quotes."


def is_held_out(kind, value):
    """The values that the model's own training left out, too."""
    return zlib.crc32(f"{kind} {value}".encode()) % 20 == 0


def draw_value(kind, held_out):
    while True:
        value = int(rng.integers(10 ** rng.integers(1, 5)))
        if kind == "date":
            value = datetime.date(1900, 1, 1) + datetime.timedelta(int(rng.integers(73_000)))
        if is_held_out("number" if kind == "number" else "date", value) == held_out:
            return value


def answer_of(wanted):
    """The one right answer to all that has been said so far."""
    code = LANGUAGES[wanted["language"]]
    if wanted["kind"] == "number":
        text = num2words.num2words(wanted["value"], lang=code)
    else:
        text = format_date(wanted["value"], "long", locale=code)
    text = text.split(" ")[0] if wanted["is_short"] else text
    return f'"{text}"' if wanted["is_quoted"] else text


def later_turn(wanted, held_out):
    """The words of one more turn, and its kind; `wanted` is changed as they say."""
    kind = rng.choice(["content", "language", "style", "limits"], p=[0.3, 0.4, 0.15, 0.15])
    if kind == "content":
        wanted["value"] = draw_value(wanted["kind"], held_out)
        return f"And {wanted['value']}?", kind
    if kind == "language":
        others = [name for name in LANGUAGES if name != wanted["language"]]
        wanted["language"] = str(rng.choice(others))
        return f"And in {wanted['language']}?", kind
    key = "is_quoted" if kind == "style" else "is_short"
    wanted[key] = not wanted[key]
    quotes, length = ("Without quotes.", "In quotes."), ("All of it.", "Only the first word.")
    return (quotes if kind == "style" else length)[wanted[key]], kind


def dialogue(held_out):
    """The messages of a dialogue of one to three answers, and the kind of each answer."""
    kind = str(rng.choice(["number", "date"], p=[0.6, 0.4]))
    has_system = rng.random() < 0.25
    wanted = {"kind": kind, "value": draw_value(kind, held_out), "is_short": False}
    wanted |= {"language": str(rng.choice(list(LANGUAGES))), "is_quoted": has_system}
    task = "Spell" if kind == "number" else "Write"
    messages = [{"role": "system", "content": SYSTEM}] if has_system else []
    text, kinds = f"{task} {wanted['value']} in {wanted['language']}.", ["task"]
    for _ in range(int(rng.integers(1, 4))):
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": answer_of(wanted)})
        text, kind = later_turn(wanted, held_out)
        kinds.append(str(kind))
    return messages, kinds[:-1]


training = [dialogue(held_out=False)[0] for _ in range(3_000)]
held_out = [dialogue(held_out=True) for _ in range(200)]
for message in held_out[0][0]:
    print(f"{message['role']:>9}: {message['content']}")

# %% [markdown]
# ## What the model reads
#
# All turns so far, in the form of Gemma's chat template, go to the encoder, and the decoder writes
# the next answer. So the loss is on answers only, with nothing to mask: a dialogue of three answers
# is three rows.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(
    "t5gemma2_tiny", encoder_sequence_length=160, decoder_sequence_length=32
)
print(lm.preprocessor.apply_chat_template(held_out[0][0][:-1]))
x, labels, weights = lm.preprocessor({"messages": [held_out[0][0]]})
print(f"{len(labels)} rows, {int(weights.sum())} labels of answers\n")

# %% [markdown]
# ## Before


# %%
def answers_of(messages):
    """For each answer of a dialogue, the messages before it and its text."""
    places = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return [(messages[:n], messages[n]["content"]) for n in places]


def measured():
    """Per kind of turn, the part of the answers that are right; and over all answers."""
    cases = [
        (kind, *answer)
        for messages, kinds in held_out
        for kind, answer in zip(kinds, answers_of(messages), strict=True)
    ]
    options = {"max_new_tokens": 31, "batch_size": 100, "verbose": 0}
    texts = lm.chat([before for _, before, _ in cases], **options)
    right = {"all": []}
    for (kind, _, want), text in zip(cases, texts, strict=True):
        right.setdefault(kind, []).append(text == want)
        right["all"].append(text == want)
    return {kind: float(np.mean(values)) for kind, values in right.items()}


lm.compile(sampler="greedy")
before = measured()
print("before:", ", ".join(f"{kind} {part:.3f}" for kind, part in before.items()))

# %% [markdown]
# ## Training

# %%
epochs, batch_size = 5, 32
steps = epochs * sum(len(answers_of(messages)) for messages in training) // batch_size
rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=50)
lm.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0), sampler="greedy")
lm.fit({"messages": training}, batch_size=batch_size, epochs=epochs, verbose=2)

# %% [markdown]
# ## After
#
# On dialogues about numbers and days that neither this training nor the model's own has seen. The
# second figure is of whole dialogues, in which the model reads its own answers to earlier turns.


# %%
def is_all_right(messages):
    said = []
    for message in messages:
        if message["role"] == "assistant":
            text = lm.chat(said, max_new_tokens=31, verbose=0)
            if text != message["content"]:
                return False
        said.append(message)
    return True


after = measured()
print("after:", ", ".join(f"{kind} {part:.3f}" for kind, part in after.items()))
whole = np.mean([is_all_right(messages) for messages, _ in held_out])
print(f"whole dialogues: {whole:.3f} of {len(held_out)}")

# %% [markdown]
# ## A picture

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
kinds = ["task", "content", "language", "style", "limits", "all"]
places = np.arange(len(kinds))
axes.bar(places - 0.2, [before[kind] for kind in kinds], 0.4, label="before")
axes.bar(places + 0.2, [after[kind] for kind in kinds], 0.4, label="after")
axes.set(xticks=places, xticklabels=kinds, ylim=(0, 1), ylabel="answers that are right")
axes.set_title("Held-out dialogues, by what a turn asks for")
axes.legend()
figure.savefig("instructions.png", dpi=120)
print("picture: instructions.png\n")

# %% [markdown]
# ## A chat in the terminal
#
# `stream=True` gives the answer in pieces while it is written. To answer questions that you type,
# put `input("you: ")` in the place of the list.

# %%
messages = []
for question in ("Spell 42 in English.", "And in German?", "And 57?", "In quotes."):
    print(f"  you: {question}\nmodel: ", end="")
    messages.append({"role": "user", "content": question})
    answer = ""
    for piece in lm.chat(messages, stream=True, max_new_tokens=31, verbose=0):
        print(piece, end="", flush=True)
        answer += piece
    print()
    messages.append({"role": "assistant", "content": answer})

print(f"\ndone in {time.time() - start:.0f} s")
