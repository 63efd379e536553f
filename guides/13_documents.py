# %% [markdown]
# # Questions about documents, with Pan and Scan
#
# A model sees an image in one size: of a long receipt or a wide form, scaled to a square, little
# can be read. Pan and Scan shows it the whole image and then parts of it, each in full size. Here
# `t5gemma2_tiny` learns to answer questions about strips of four handwritten digits, once with
# Pan and Scan and once without, in a few minutes on two CPU cores:
#
#     pip install ".[jax,evaluation]" scikit-learn matplotlib
#     KERAS_BACKEND=jax python guides/13_documents.py
#
# With a published preset the same lines read scanned pages.

# %%
import time
import zlib

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import keras_t5gemma2
from keras_t5gemma2 import evaluate_generation

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
start = time.time()

# %% [markdown]
# ## Documents
#
# Four digits side by side, 512 x 128 pixels, and a question. One picture of a digit in seven is
# kept for the measurement: no document of the training shows it.

# %%
digits = load_digits()
kept = {i for i in range(len(digits.target)) if zlib.crc32(f"image {i}".encode()) % 7 == 0}
seen = [i for i in range(len(digits.target)) if i not in kept]
QUESTIONS = {
    "Which number is this?": lambda number: number,
    "What is the first digit?": lambda number: number[0],
    "What is the third digit?": lambda number: number[2],
    "What is the last digit?": lambda number: number[3],
}


def strip(chosen):
    """One image of some digits, scaled up as a scanner would give it."""
    pixels = np.uint8(np.concatenate(digits.images[chosen], axis=1) * (255 / 16))
    return np.array(Image.fromarray(pixels).resize((512, 128), Image.Resampling.BICUBIC))


def documents(indices, count):
    """Rows of questions, images and answers; no two documents are the same."""
    rows = {"encoder_text": [], "images": [], "decoder_text": []}
    for place in range(count):
        chosen = rng.choice(indices, 4)
        question = list(QUESTIONS)[place % len(QUESTIONS)]
        number = "".join(str(digits.target[i]) for i in chosen)
        rows["encoder_text"].append(f"<start_of_image>{question}")
        rows["images"].append(strip(chosen))
        rows["decoder_text"].append(QUESTIONS[question](number))
    return rows


training, test = documents(seen, 2_000), documents(sorted(kept), 200)

# %% [markdown]
# ## What the model sees
#
# Without Pan and Scan the strip is squeezed into the 32 x 32 pixels of this model (896 x 896 of
# the published ones). With it the row holds five images: the whole, and four parts.

# %%
import matplotlib

matplotlib.use("Agg")  # draws to files, with or without a screen
import matplotlib.pyplot as plt

lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", encoder_sequence_length=160)
lm.compile(sampler="greedy")
converter = lm.preprocessor.image_converter
converter.min_crop_size = 64  # pixels of the image; 256 for the published models


def draw_inputs(image):
    """The document, and below it what reaches the vision tower."""
    converter.pan_and_scan = True
    inputs = converter.original_and_crops(image)
    figure, panels = plt.subplot_mosaic(
        [["document"] * len(inputs), range(len(inputs))], figsize=(7, 3.2), layout="constrained"
    )
    panels["document"].imshow(image, cmap="gray")
    panels["document"].set_title(f"the document, {image.shape[1]} x {image.shape[0]} pixels")
    for place, pixels in enumerate(inputs):
        panels[place].imshow((pixels + 1) / 2)
        panels[place].set_title("whole" if place == 0 else f"part {place}", fontsize=9)
    for axes in panels.values():
        axes.set(xticks=[], yticks=[])
    figure.savefig("documents_inputs.png", dpi=120)


draw_inputs(test["images"][0])

# %% [markdown]
# ## Before
#
# The model was taught to read one digit an image, and up to three images a row.

# %%
SHOWN = range(4)  # one of each question
options = {"metrics": ["exact_match"], "batch_size": 100, "max_new_tokens": 6, "verbose": 0}


def measure(title):
    result = evaluate_generation(lm, test, **options)
    print(f"{title}: {result['exact_match']:.1f} % of the answers are right")
    for place in SHOWN:
        question = test["encoder_text"][place].removeprefix("<start_of_image>")
        wanted, given = test["decoder_text"][place], result.predictions[place]
        print(f"    {question} {wanted} → {given}")
    return result["exact_match"]


for scans in (False, True):
    converter.pan_and_scan = scans
    measure(f"before, {'with' if scans else 'without'} Pan and Scan")

# %% [markdown]
# ## Train, once with and once without
#
# The vision tower is frozen. `precompute` keeps what it makes of each image and of its parts, so
# that no epoch computes it again. Both models begin with the same weights and see the same rows
# in the same order.

# %%
epochs, batch_size = 4, 50
steps = epochs * len(training["images"]) // batch_size
untrained = lm.get_weights()
losses, found = {}, {}
for scans in (False, True):
    name = f"{'with' if scans else 'without'} Pan and Scan"
    converter.pan_and_scan = scans
    keras.utils.set_random_seed(0)
    lm.set_weights(untrained)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps, warmup_target=1e-3, warmup_steps=steps // 20
    )
    lm.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), sampler="greedy")
    began = time.time()
    features = lm.precompute(training, batch_size=100, verbose=0)
    history = lm.fit(features, batch_size=batch_size, epochs=epochs, verbose=0)
    print(f"\n{name}: trained in {time.time() - began:.0f} s")
    losses[name], found[name] = history.history["loss"], measure("after")

# %% [markdown]
# ## What it gains
#
# A row with parts is longer: five images and the words that announce them instead of one image.
# Pan and Scan is for what cannot be read without it.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in losses.items():
    axes.plot(range(1, epochs + 1), values)
    axes.annotate(f" {name}: {found[name]:.0f} % right", (epochs, values[-1]), va="bottom")
axes.set(xlabel="epoch", ylabel="loss per token", title="Four digits in one image")
axes.set(xlim=(1, epochs * 1.7), ylim=0, xticks=range(1, epochs + 1))
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("documents_loss.png", dpi=120)
print(f"\ndone in {time.time() - start:.0f} s")
