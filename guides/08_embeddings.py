# %% [markdown]
# # Vectors of texts: names of one thing, near each other in 26 languages
#
# The encoder alone makes a vector of a text. Here it learns that 독일, Германия and Germany are the
# same, from names of countries, languages and months in 26 languages, in less than five minutes on
# two CPU cores:
#
#     pip install ".[jax]" babel matplotlib
#     KERAS_BACKEND=jax python guides/08_embeddings.py
#
# With a published preset the same lines make a search engine of a large model.

# %%
import time

import babel
import keras
import numpy as np

import keras_t5gemma2

keras.utils.set_random_seed(0)
start = time.time()

# %% [markdown]
# ## Data
#
# The names come from the CLDR, by Babel. Of each thing, some names are held out: the model never
# sees them in training, neither as this thing's nor as another's. They are asked for at the end,
# among the English names of all things.

# %%
languages = "de fr es it pt ro nl sv da pl cs hu tr id vi ru uk el he ar hi th ja ko zh".split()
territories = (
    "DE FR GB IT ES PT PL NL BE CH AT SE NO DK FI IE GR TR RU UA RO HU CZ SK BG HR RS US CA MX BR "
    "AR CL PE CO EG MA ZA NG KE ET IN PK BD CN JP KR TH VN ID PH MY AU NZ IL SA IR IQ SY IS"
).split()


def names_of(language):
    """The names of all things in a language."""
    locale = babel.Locale(language)
    months = locale.months["stand-alone"]["wide"]
    return [
        *(locale.territories[code] for code in territories),
        *(locale.languages[code] for code in [*languages, "en", "fi"]),
        *(months[month] for month in range(1, 13)),
    ]
