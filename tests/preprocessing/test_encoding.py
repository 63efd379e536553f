"""From rows to ids and pixels: what is refused, what is never cut, and what is found early."""

import json
import re

import numpy as np
import pytest
from preprocessors import (
    BOS,
    EOS,
    IMAGE,
    MARKER,
    SIZE,
    TOKENIZER,
    TOKENS_PER_IMAGE,
    random_image,
    text_only_preprocessor,
    tiny_preprocessor,
)
from tiny_vocabulary import tiny_tokenizer_json

from keras_t5gemma2 import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.encoding import RowEncoder, naming_image
from keras_t5gemma2.preprocessing.rows import Row
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer

pytestmark = pytest.mark.once


@pytest.fixture
def preprocessor():
    return tiny_preprocessor()


@pytest.fixture
def text_only():
    return text_only_preprocessor()


def test_image_block_is_never_cut(preprocessor):
    x = {"encoder_text": ["the cat", f"a cat {MARKER} dog"], "images": [None, random_image()]}
    whole = preprocessor.generate_preprocess(x)["encoder_token_ids"][1]
    needed = whole.tolist().index(IMAGE) + TOKENS_PER_IMAGE + 1
    cut = preprocessor.generate_preprocess(x, encoder_sequence_length=needed)["encoder_token_ids"]
    assert cut[1].tolist() == whole[:needed].tolist()
    message = (
        f"encoder_sequence_length={needed - 1}, and in row 1 images that end at token {needed}"
    )
    with pytest.raises(ValueError, match=message):
        preprocessor.generate_preprocess(x, encoder_sequence_length=needed - 1)


def test_text_only_refuses_images_and_markers(text_only):
    with pytest.raises(ValueError, match="image_converter=None, and in row 1 2 images"):
        text_only.generate_preprocess(
            {"encoder_text": ["a", "b"], "images": [None, [random_image()] * 2]}
        )
    with pytest.raises(ValueError, match=f"{MARKER}.* in row 0: 1 of them and 0 images"):
        text_only.generate_preprocess(MARKER)


def test_images_need_image_tokens(tmp_path):
    data = json.loads(json.dumps(tokenizer_without_image_tokens(tmp_path)))
    path = tmp_path / "text.json"
    path.write_text(json.dumps(data))
    preprocessor = tiny_preprocessor(T5Gemma2Tokenizer(path))
    assert preprocessor.generate_preprocess(f"a {MARKER}")["images"].shape == (0, *SIZE, 3)
    with pytest.raises(ValueError, match="one without, and in row 0 1 images"):
        preprocessor.generate_preprocess({"encoder_text": "a", "images": random_image()})


def tokenizer_without_image_tokens(folder):
    data = json.loads(tiny_tokenizer_json(folder / "tokenizer.json").read_text("utf-8"))
    names = {MARKER, "<end_of_image>", "<image_soft_token>"}
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in names]
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = {re.sub("image", "none", token): i for token, i in vocabulary.items()}
    data["model"]["merges"] = []
    return data


def encoder(truncate=True, vision=True):
    converter = T5Gemma2ImageConverter(SIZE) if vision else None
    return RowEncoder(TOKENIZER, converter, TOKENS_PER_IMAGE, truncate)


def test_a_target_ends_with_one_end_token_and_a_prompt_with_none():
    rows = [Row(None, [], "a dog<eos><eos>", 0), Row("the cat", [], None, 1)]
    trained = encoder(vision=False).encode(rows, True, 10, 10)
    assert [ids[-1] for ids in trained.decoder_ids] == [EOS, EOS]
    assert trained.decoder_ids[0].tolist().count(EOS) == 1
    assert trained.decoder_ids[1].tolist() == [BOS, EOS]
    assert [len(ids) for ids in trained.encoder_ids] == [0, 1 + len(TOKENIZER("the cat"))]
    assert trained.images is None
    prompts = encoder(vision=False).encode(rows, False, 10, 10).decoder_ids
    assert prompts[1].tolist() == [BOS]


def test_images_of_a_row_are_one_array_and_their_tokens_as_many():
    rows = [
        Row(f"{MARKER} a {MARKER}", [random_image(), random_image(seed=1)], None, 0),
        Row("the cat", [], None, 1),
    ]
    encoded = encoder().encode(rows, False, 99, 9)
    assert [images.shape for images in encoded.images] == [(2, *SIZE, 3), (0, *SIZE, 3)]
    assert [(ids == IMAGE).sum() for ids in encoded.encoder_ids] == [2 * TOKENS_PER_IMAGE, 0]


@pytest.mark.parametrize("method", ["encode", "check"])
def test_a_text_that_may_not_be_cut_is_an_error_of_its_row(method):
    """And the check, which reads no file, finds what encoding would."""
    rows = [Row("the cat", [], None, 4), Row("a dog is in this garden", [], None, 5)]
    run = getattr(encoder(truncate=False), method)
    run(rows, False, 99, 9)
    with pytest.raises(ValueError, match="in row 5: 7 tokens, encoder_sequence_length=6"):
        run(rows, False, 6, 9)
    with pytest.raises(ValueError, match=r"must not be empty in training. Received in row 2: ' '"):
        run([Row("the cat", [], " ", 2)], True, 9, 9)


def test_texts_are_cut_to_the_limit():
    encoded = encoder().encode([Row("a dog is in this garden", [], "a dog", 0)], False, 4, 2)
    assert [len(encoded.encoder_ids[0]), len(encoded.decoder_ids[0])] == [4, 2]


def test_errors_about_an_image_name_its_row_and_keep_their_type():
    for kind in (ValueError, TypeError):
        row = Row("", [], None, 7)
        with pytest.raises(kind, match="^In row 7, image 2: bad$"), naming_image(row, 2):
            raise kind("bad")
    with pytest.raises(KeyError), naming_image(Row("", [], None, 7), 2):
        raise KeyError("other")


def test_features_and_pixels_do_not_go_together():
    from keras_t5gemma2 import ImageFeatures

    features = ImageFeatures(np.zeros((1, TOKENS_PER_IMAGE, 4), "float32"))
    rows = [Row(MARKER, [random_image()], None, 0), Row(MARKER, [features], None, 1)]
    assert encoder().encode(rows[1:], False, 99, 9).image_features[0].shape == (1, 3, 4)
    with pytest.raises(ValueError, match="image 0 of row 1, and none for image 0 of row 0"):
        encoder().encode(rows, False, 99, 9)
