# %% [markdown]
# # Where the model looks
#
# This guide asks `t5gemma2_tiny` for a number whose digits are images, and draws where the model
# looks while it writes each of them. It needs no download and runs in a minute on two CPU cores:
#
#     pip install ".[torch]" scikit-learn matplotlib
#     KERAS_BACKEND=torch python guides/10_attention.py

# %%
import numpy as np
from sklearn.datasets import load_digits

import keras_t5gemma2

lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.compile(sampler="greedy")

digits = load_digits()
pictures = [np.uint8(255 * digits.images[digits.target == digit][3] / 16) for digit in (4, 2)]
row = {"encoder_text": "<start_of_image><start_of_image>Which number is this?", "images": pictures}

# %% [markdown]
# `lm.attention` gives, for each token that is written, its weights over the decoder's own tokens,
# `past`, and over the encoder's, `encoder`. In each layer and head the two are one softmax, which
# sums to 1. `images` are those weights in `encoder` that belong to the parts of an image.

# %%
found = lm.attention(row, max_new_tokens=4)
print(found)
print("written:", found.tokens)
for number, token in enumerate(found.tokens[:2]):
    shares = [float(image[:, :, number].mean(axis=(0, 1)).sum()) for image in found.images]
    print(f"{token!r} looks at the pictures with", " and ".join(f"{x:.2f}" for x in shares))

# %% [markdown]
# The first digit looks at the first picture, and the second at the second. One head shows it best:

# %%
first, second = (image[:, :, :2].sum(axis=(-2, -1)) for image in found.images)
looks = first[..., 0] - second[..., 0] + second[..., 1] - first[..., 1]
layer, head = (int(i) for i in np.unravel_index(looks.argmax(), looks.shape))
print(f"layer {layer}, head {head}:")
for number, token in enumerate(found.tokens[:2]):
    shares = first[layer, head, number], second[layer, head, number]
    print(f"{token!r} looks at the pictures with", " and ".join(f"{x:.2f}" for x in shares))

# %% [markdown]
# `show_attention` draws the text with shades and the pictures under a map of their parts. In a
# notebook the figure is HTML. guides/10_attention.png is the picture of this.

# %%
figure = keras_t5gemma2.show_attention(found, tokens=[0, 1], layers=layer, heads=head)
figure.savefig("attention.png", dpi=120)
figure

# %% [markdown]
# `lm.probe` tells how sure the model is: the surprise of each token, in nats, the entropy of the
# choice, and the likeliest tokens.

# %%
probe = lm.probe(row, output="47")
for token, surprise, entropy, best in zip(
    probe.tokens, probe.surprise, probe.entropy, probe.alternatives, strict=True
):
    others = ", ".join(f"{other!r} {share:.3f}" for other, share in best[:3])
    print(f"{token!r}: surprise {surprise:.2f}, entropy {entropy:.2f}; {others}")
