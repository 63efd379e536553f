"""Presets that the installed keras-hub writes of its own T5Gemma 2, as models of this package."""

import json
import shutil

import numpy as np
import pytest
from keras import ops
from keras_hub_models import (
    TOKENIZER,
    hub_backbone,
    hub_task,
    logits_of,
    logits_of_hub,
)

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    VisionConfig,
)

# What the two implementations may differ by: they compute in other orders.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
KINDS = ["text", "vision"]


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Presets of a text model and of one that sees images, with the logits of keras-hub."""
    made = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp(kind)
        task = hub_task(kind == "vision")
        task.save_to_preset(str(directory))
        made[kind] = (directory, logits_of_hub(task, kind == "vision"))
    return made


@pytest.fixture(scope="module")
def vision_preset(presets):
    return presets["vision"][0]


def numpy_weights(model):
    return {weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_keras_hub(presets, kind):
    directory, wanted = presets[kind]
    lm = T5Gemma2Seq2SeqLM.from_preset(directory)
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(logits_of(lm, kind == "vision"), wanted, **CLOSE)
