"""The rows of presets, and which generation each is of."""

import pytest

from keras_t5gemma2.registry import class_name, generation_of, presets

pytestmark = pytest.mark.once


def test_all_published_checkpoints_of_t5gemma_1_have_a_row():
    names = [name for name, row in presets.items() if generation_of(row) == 1]
    assert len(names) == len({presets[name]["hf_handle"] for name in names}) == 32
    assert sum(name.endswith("_it") for name in names) == 16
    row = presets["t5gemma_9b_2b_prefixlm_it"]
    assert row["hf_handle"] == "hf://google/t5gemma-9b-2b-prefixlm-it"
    assert row["kaggle_handle"] == "kaggle://keras/t5-gemma/keras/t5gemma_9b_2b_prefixlm_it/1"
    assert generation_of(presets["t5gemma2_tiny"]) == generation_of(presets["t5gemma2_4b_4b"]) == 2


def test_names_of_classes():
    assert class_name("keras_hub>T5Gemma2Tokenizer", 1) == "keras_hub>T5GemmaTokenizer"
    assert class_name("T5Gemma2Tokenizer", 2) == "T5Gemma2Tokenizer"
