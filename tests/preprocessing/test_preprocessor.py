"""What the preprocessor makes of rows, and what is saved of it."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from preprocessors import (
    BOS,
    EOS,
    MARKER,
    PAD,
    ROWS,
    SIZE,
    TOKENIZER,
    TOKENS_PER_IMAGE,
    assert_equal,
    plain,
    random_image,
    text_only_preprocessor,
    tiny_preprocessor,
)

from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor


@pytest.fixture
def preprocessor():
    return tiny_preprocessor()


@pytest.fixture
def text_only():
    return text_only_preprocessor()


# Encoder and decoder --------------------------------------------------------------------------


def test_training_labels_follow_the_inputs(preprocessor):
    short, long = TOKENIZER.tokenize(ROWS["decoder_text"])
    assert (len(short), len(long)) == (2, 6)
    x, labels, weights = preprocessor(ROWS, decoder_sequence_length=5)
    assert x["decoder_token_ids"].tolist() == [[BOS, *short, EOS, PAD], [BOS, *long[:4]]]
    assert labels.tolist() == [[*short, EOS, PAD, PAD], long[:5]]
    assert weights.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert x["decoder_padding_mask"].tolist() == [[True] * 4 + [False], [True] * 5]
    dtypes = {name: array.dtype.name for name, array in x.items()}
    assert dtypes == {
        "encoder_token_ids": "int32",
        "encoder_padding_mask": "bool",
        "decoder_token_ids": "int32",
        "decoder_padding_mask": "bool",
        "images": "float32",
        "image_features": "float32",
    }
    assert (labels.dtype, weights.dtype) == ("int32", "float32")
    assert all(type(array) is np.ndarray for array in [*x.values(), labels, weights])


def test_end_token_is_cut_only_with_the_text(preprocessor):
    ids = TOKENIZER.tokenize("a red bee and a house")
    for length, expected in [(5, ids[:5]), (6, ids), (7, [*ids, EOS]), (8, [*ids, EOS, PAD])]:
        _, labels, _ = preprocessor(
            {"encoder_text": "", "decoder_text": "a red bee and a house"}, sequence_length=length
        )
        assert labels.tolist() == expected


@pytest.mark.parametrize("text", ["a dog", "a dog<eos>", "a dog<eos><eos>", "<eos>"])
def test_labels_end_with_one_end_token(preprocessor, text):
    _, labels, weights = preprocessor({"encoder_text": "cat", "decoder_text": text})
    expected = [*TOKENIZER.tokenize(text.replace("<eos>", "")), EOS]
    assert labels[weights > 0].tolist() == expected


def test_encoder_has_a_start_and_no_end(preprocessor):
    x, _, _ = preprocessor(ROWS, encoder_sequence_length=7)
    first, second = TOKENIZER.tokenize(ROWS["encoder_text"])
    assert x["encoder_token_ids"].tolist() == [
        [BOS, *first, PAD],
        [BOS, *second, PAD, PAD, PAD, PAD],
    ]
    assert x["encoder_padding_mask"].tolist() == [[True] * 6 + [False], [True] * 3 + [False] * 4]
    cut, _, _ = preprocessor(ROWS, encoder_sequence_length=3)
    np.testing.assert_array_equal(cut["encoder_token_ids"], x["encoder_token_ids"][:, :3])


def test_prompt_has_a_start_and_no_end(preprocessor):
    x = preprocessor.generate_preprocess(ROWS, sequence_length=4)
    short, long = TOKENIZER.tokenize(ROWS["decoder_text"])
    assert x["decoder_token_ids"].tolist() == [[BOS, *short, PAD], [BOS, *long[:3]]]
    assert x["decoder_padding_mask"].tolist() == [[True] * 3 + [False], [True] * 4]
    for empty in ({}, {"decoder_text": None}, {"decoder_text": ["", ""]}):
        x = preprocessor.generate_preprocess({"encoder_text": ["a", "dog"], **empty})
        assert x["decoder_token_ids"].tolist() == [[BOS] + [PAD] * 10] * 2
        assert x["decoder_padding_mask"].tolist() == [[True] + [False] * 10] * 2


def test_training_and_generation_encode_alike(preprocessor):
    x = {**ROWS, "images": [None, random_image()], "encoder_text": ["cat", f"dog {MARKER}"]}
    trained, _, _ = preprocessor(x)
    generated = preprocessor.generate_preprocess(x)
    encoded, _ = preprocessor.encode_rows(x)
    for name in ("encoder_token_ids", "encoder_padding_mask", "images"):
        np.testing.assert_array_equal(trained[name], generated[name])
    ids, mask = trained["encoder_token_ids"], trained["encoder_padding_mask"]
    assert [ids[i][mask[i]].tolist() for i in range(2)] == plain(encoded.encoder_ids)


def test_without_encoder_input_the_encoder_is_empty(preprocessor):
    encoded, is_single = preprocessor.encode_rows({"decoder_text": "a cat"})
    assert is_single
    assert plain(encoded.encoder_ids) == [[]]
    assert plain(encoded.decoder_ids) == [[BOS, *TOKENIZER.tokenize("a cat")]]
    x = preprocessor.generate_preprocess({"decoder_text": ["a cat", "dog"]})
    assert not x["encoder_padding_mask"].any()
    x = preprocessor.generate_preprocess("")
    assert x["encoder_token_ids"][x["encoder_padding_mask"]].tolist() == [BOS]


def test_sample_weight_scales_rows(preprocessor):
    _, _, plain = preprocessor(ROWS)
    for weights in ([0.5, 3.0], np.array([0.5, 3.0]), keras.ops.convert_to_tensor([0.5, 3.0])):
        _, _, scaled = preprocessor(ROWS, sample_weight=weights)
        np.testing.assert_array_equal(scaled, plain * [[0.5], [3.0]])
        assert scaled.dtype == "float32"
    row = {"encoder_text": "cat", "decoder_text": "dog"}
    assert preprocessor(row, sample_weight=0.25)[2].sum() == 0.5
    of_labels = np.arange(22, dtype="float64").reshape(2, 11)
    np.testing.assert_array_equal(preprocessor(ROWS, sample_weight=of_labels)[2], plain * of_labels)
    weights = preprocessor(row, sample_weight=of_labels[1])[2]
    assert weights.tolist() == [11.0, 12.0] + [0.0] * 9
    with pytest.raises(ValueError, match=r"shape \(2, 11\). Received: .* of shape \(3,\)"):
        preprocessor(ROWS, sample_weight=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"Received: sample_weight of shape \(2, 1\)"):
        preprocessor(ROWS, sample_weight=[[1.0], [1.0]])


# Images ---------------------------------------------------------------------------------------


def test_rows_with_and_without_images_make_a_batch(preprocessor):
    big, small, gray = random_image(30, 40), random_image(2, 3, seed=1), np.full((4, 6), 7, "uint8")
    x = {
        "encoder_text": [f"{MARKER} and {MARKER}", "no image", MARKER],
        "images": [[big, small], None, gray],
        "decoder_text": ["a", "b", "c"],
    }
    images = preprocessor(x)[0]["images"]
    assert images.shape == (3, 2, *SIZE, 3)
    converter = preprocessor.image_converter
    np.testing.assert_array_equal(images[0], converter([big, small]))
    np.testing.assert_array_equal(images[2, 0], converter(gray))
    assert not images[1].any() and not images[2, 1].any()


def test_no_images_are_an_empty_axis(preprocessor):
    for x in (["a", "dog"], {"encoder_text": ["a", "dog"], "images": [None, []]}):
        assert preprocessor.generate_preprocess(x)["images"].shape == (2, 0, *SIZE, 3)
    assert preprocessor.generate_preprocess("a")["images"].shape == (0, *SIZE, 3)


def test_images_without_text_stand_side_by_side(preprocessor):
    pair, one = [random_image(), random_image(seed=1)], random_image(seed=2)
    texts = {"encoder_text": [f"{MARKER} {MARKER}", MARKER]}
    expected = preprocessor.generate_preprocess({**texts, "images": [pair, one]})
    for x in ({"images": [pair, [one]]}, {"encoder_text": ["", ""], "images": [pair, one]}):
        found = preprocessor.generate_preprocess(x)
        assert_equal(found, expected)
    single = preprocessor.generate_preprocess({"images": pair})
    assert single["images"].shape == (2, *SIZE, 3)
    np.testing.assert_array_equal(single["encoder_token_ids"], expected["encoder_token_ids"][0])


def test_text_only_has_no_images(text_only):
    x, _, _ = text_only(ROWS)
    assert "images" not in x and "images" not in text_only.generate_preprocess("cat")
    assert text_only.encode_rows("cat")[0].images is None


# Lengths, saving, postprocessing --------------------------------------------------------------


def test_lengths_of_a_call(preprocessor):
    x = preprocessor.generate_preprocess("a", encoder_sequence_length=5, decoder_sequence_length=3)
    assert (x["encoder_token_ids"].shape, x["decoder_token_ids"].shape) == ((5,), (3,))
    x, labels, _ = preprocessor(ROWS, encoder_sequence_length=5, sequence_length=3)
    assert (x["encoder_token_ids"].shape, labels.shape) == ((2, 5), (2, 3))
    assert preprocessor.sequence_length == 11
    preprocessor.sequence_length = 7
    preprocessor.encoder_sequence_length = 13
    x = preprocessor.generate_preprocess("a")
    assert (x["encoder_token_ids"].shape, x["decoder_token_ids"].shape) == ((13,), (7,))
    with pytest.raises(ValueError, match="sequence_length=3, decoder_sequence_length=5"):
        preprocessor.generate_preprocess("a", sequence_length=3, decoder_sequence_length=5)
    with pytest.raises(ValueError, match="Received: encoder_sequence_length=0"):
        preprocessor.generate_preprocess("a", encoder_sequence_length=0)


@pytest.mark.parametrize(
    "name", ["encoder_sequence_length", "decoder_sequence_length", "tokens_per_image"]
)
def test_bad_length_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Received: {name}=-1"):
        tiny_preprocessor(**{name: -1})


def test_every_argument_survives(preprocessor, text_only):
    config = preprocessor.get_config()
    changed = ("encoder_sequence_length", 131), ("decoder_sequence_length", 11)
    for name, value in (*changed, ("tokens_per_image", TOKENS_PER_IMAGE)):
        assert config[name] == value
    assert {"tokenizer", "image_converter"} <= config.keys()
    serialized = keras.saving.serialize_keras_object(preprocessor)
    assert serialized["registered_name"] == "keras_t5gemma2>T5Gemma2Seq2SeqLMPreprocessor"
    revived = keras.saving.deserialize_keras_object(serialized)
    assert type(revived) is T5Gemma2Seq2SeqLMPreprocessor
    assert revived.get_config() == config
    assert revived.image_converter.image_size == SIZE
    assert text_only.get_config()["image_converter"] is None
    revived = T5Gemma2Seq2SeqLMPreprocessor.from_config(text_only.get_config())
    assert revived.image_converter is None


def _preset(folder, layers):
    for layer in layers:
        layer.save_to_preset(folder)
    config = {"registered_name": "keras_t5gemma2>T5Gemma2Backbone", "config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    "base", [T5Gemma2Seq2SeqLMPreprocessor, keras_hub.models.Seq2SeqLMPreprocessor]
)
def test_preset_gives_the_same_arrays(preprocessor, tmp_path, base):
    revived = base.from_preset(_preset(tmp_path, [preprocessor]))
    assert type(revived) is T5Gemma2Seq2SeqLMPreprocessor
    x = {"encoder_text": f"{MARKER} a cat", "images": random_image(), "decoder_text": "dog"}
    assert plain(revived(x)) == plain(preprocessor(x))
    converter = keras_hub.layers.ImageConverter.from_preset(str(tmp_path))
    assert type(converter) is T5Gemma2ImageConverter


def test_preset_of_parts_may_lack_an_image_converter(preprocessor, tmp_path):
    text, both = tmp_path / "text", tmp_path / "both"
    revived = T5Gemma2Seq2SeqLMPreprocessor.from_preset(_preset(text, [TOKENIZER]))
    assert revived.image_converter is None
    # Nobody says how long: as long as the published models are made for.
    lengths = revived.encoder_sequence_length, revived.decoder_sequence_length
    assert lengths == (131_072, 32_768)
    parts = [TOKENIZER, preprocessor.image_converter]
    revived = T5Gemma2Seq2SeqLMPreprocessor.from_preset(_preset(both, parts))
    assert revived.image_converter.image_size == SIZE
    revived = T5Gemma2Seq2SeqLMPreprocessor.from_preset(str(both), image_converter=None)
    assert revived.image_converter is None


def test_generate_postprocess_inverts_the_prompt(preprocessor):
    texts = ["a cat<eos>", " é\n\nthe  dog", ""]
    x = preprocessor.generate_preprocess({"encoder_text": [""] * 3, "decoder_text": texts})
    # What stands under the mask must not matter, and special tokens are no text.
    junk = np.where(x["decoder_padding_mask"], x["decoder_token_ids"], 300)
    expected = ["a cat", " é\n\nthe  dog", ""]
    mask = x["decoder_padding_mask"]
    for convert in (np.asarray, keras.ops.convert_to_tensor):
        batch = {"decoder_token_ids": convert(junk), "decoder_padding_mask": convert(mask)}
        assert preprocessor.generate_postprocess(batch) == expected
        row = {name: array[0] for name, array in batch.items()}
        assert preprocessor.generate_postprocess(row) == expected[0]
