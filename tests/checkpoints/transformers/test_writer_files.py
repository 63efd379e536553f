"""What an export writes, what it leaves alone, and what it refuses."""

import json

import numpy as np
import pytest
from reference_models import IMAGE_SIZE, load_ours, tiny_reference
from safetensors.numpy import load_file
from tasks import TOKENIZER

from keras_t5gemma2 import T5Gemma2ImageConverter, T5Gemma2Seq2SeqLM, T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.files import safetensors_writer

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    converter = T5Gemma2ImageConverter(
        (IMAGE_SIZE, IMAGE_SIZE), pan_and_scan=True, min_crop_size=9, max_num_crops=3
    )
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, converter, tokens_per_image=4)
    size = {"vocab_size": TOKENIZER.vocabulary_size()}
    return T5Gemma2Seq2SeqLM(load_ours(tiny_reference(text=size)), preprocessor)


def names(directory):
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def read(directory, name):
    return json.loads((directory / name).read_text())


FILES = [
    *("README.md", "chat_template.jinja"),
    *("config.json", "generation_config.json", "model.safetensors", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
]


def test_files(lm, tmp_path):
    lm.export_to_transformers(tmp_path)
    assert names(tmp_path) == FILES
    config = read(tmp_path, "config.json")
    assert config["dtype"] == "float32" and config["vocab_size"] == TOKENIZER.vocabulary_size()
    assert config["encoder"]["boi_token_index"] == TOKENIZER.start_of_image_token_id
    assert config["decoder"]["eos_token_id"] == TOKENIZER.end_token_id
    generation = read(tmp_path, "generation_config.json")
    assert (generation["top_k"], generation["pad_token_id"]) == (64, 0)


def test_what_the_processor_is_told_comes_back(lm, tmp_path):
    lm.export_to_transformers(tmp_path)
    again = T5Gemma2ImageConverter.from_preset(str(tmp_path))
    keys = ("image_size", "pan_and_scan", "min_crop_size", "max_num_crops")
    for key in (*keys, "min_ratio_to_activate"):
        assert getattr(again, key) == getattr(lm.preprocessor.image_converter, key), key


def test_shards(lm, tmp_path):
    """As large as the limit allows; a tensor alone may be larger. Each tensor is there once."""
    lm.export_to_transformers(tmp_path / "whole")
    lm.export_to_transformers(tmp_path / "parts", max_shard_size="0.01 MB")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    index = read(tmp_path / "parts", "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and len(files) > 10
    parts = {}
    for file in files:
        part = load_file(tmp_path / "parts" / file)
        assert sum(array.nbytes for array in part.values()) <= 10_000 or len(part) == 1
        assert not set(part) & set(parts)
        parts |= part
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in whole.values())
    assert index["metadata"]["total_parameters"] == lm.backbone.count_params()
    assert set(parts) == set(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array)


def test_an_older_export_makes_way_and_other_files_stay(lm, tmp_path):
    lm.export_to_transformers(tmp_path, max_shard_size=10_000)
    (tmp_path / "README.md").write_text("mine")
    for stale in ("tokenizer.model", "preprocessor_config.json"):
        (tmp_path / stale).write_text("old")
    with pytest.warns(UserWarning, match="README.md has been edited, or was not written by this"):
        lm.export_to_transformers(tmp_path)
    assert names(tmp_path) == FILES and (tmp_path / "README.md").read_text() == "mine"


def test_an_interruption_leaves_what_was_there(lm, tmp_path, monkeypatch):
    lm.export_to_transformers(tmp_path / "old")
    before = {name: (tmp_path / "old" / name).read_bytes() for name in FILES}

    def interrupted(tensor):
        yield from pieces(tensor)
        if "decoder" in tensor.name:
            raise KeyboardInterrupt

    pieces = safetensors_writer._pieces
    monkeypatch.setattr(safetensors_writer, "_pieces", interrupted)
    for path in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            lm.export_to_transformers(tmp_path / path, dtype="bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {name: (tmp_path / "old" / name).read_bytes() for name in FILES} == before
    assert names(tmp_path / "old") == FILES


def test_a_task_without_a_preprocessor_has_no_tokenizer(lm, tmp_path):
    T5Gemma2Seq2SeqLM(lm.backbone).export_to_transformers(tmp_path)
    assert names(tmp_path) == [FILES[0], *FILES[2:5]]


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"max_shard_size": "5 apples"}, "max_shard_size='5 apples'"),
        ({"max_shard_size": 0}, "max_shard_size=0"),
        ({"adapters": "none"}, "adapters='none'"),
    ],
)
def test_options_that_there_are_not(lm, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        lm.export_to_transformers(tmp_path / "new", **options)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_does_not_fit(tmp_path):
    lm = T5Gemma2Seq2SeqLM(load_ours(tiny_reference(), text_only=True))
    lm.backbone.embedder.end_of_image.assign(np.full(40, -7e4))
    with pytest.raises(ValueError, match=r"dtype='float16', and .*eoi_embedding holds 7e\+04"):
        lm.export_to_transformers(tmp_path / "new", dtype="float16")
    lm.export_to_transformers(tmp_path / "new", dtype="bfloat16")


def test_a_quantized_model(tmp_path):
    lm = T5Gemma2Seq2SeqLM(load_ours(tiny_reference(), text_only=True))
    lm.backbone.encoder.blocks[0].attention.query.quantize("int8")
    with pytest.raises(ValueError, match="encoder/layer_0/attention/query, quantized to 'int8'"):
        lm.export_to_transformers(tmp_path / "new")
