"""A task of parts that do not belong together is refused, when it is made and when it is loaded."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from preprocessors import random_image
from tasks import ONE_LAYER, TOKENIZER, tiny_task
from tiny_models import tiny_backbone

from keras_t5gemma2 import (
    T5Gemma2DenoisingPreprocessor,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

pytestmark = pytest.mark.once
_SIZE = TOKENIZER.vocabulary_size()


@pytest.fixture(scope="module")
def lm():
    return tiny_task()


def _with_one_token_more(data):
    content = json.loads(data)
    size = 1 + max(*content["model"]["vocab"].values(), *(t["id"] for t in content["added_tokens"]))
    token = {**content["added_tokens"][0], "id": size, "content": "<one-more>"}
    content["added_tokens"].append(token)
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def larger():
    """The tokenizer with a token that the table has no row for."""
    return T5Gemma2Tokenizer(_with_one_token_more(TOKENIZER.to_tokenizer_json()))


def _preprocessor(tokenizer=TOKENIZER, size=(28, 28), tokens_per_image=4):
    converter = size and T5Gemma2ImageConverter(size)
    return T5Gemma2Seq2SeqLMPreprocessor(tokenizer, converter, tokens_per_image=tokens_per_image)


def test_a_tokenizer_larger_than_the_table(lm, larger):
    message = rf"a tokenizer of {_SIZE + 1} tokens, and a backbone of vocabulary_size={_SIZE}"
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM(lm.backbone, _preprocessor(larger))
    with pytest.raises(ValueError, match=message):
        lm.preprocessor = T5Gemma2DenoisingPreprocessor(larger)
    assert lm.preprocessor.tokenizer is TOKENIZER
    text = tiny_backbone(ONE_LAYER)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM(text, _preprocessor(larger, size=None))


def test_a_token_added_to_a_file(tmp_path):
    T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").export_to_transformers(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(_with_one_token_more(path.read_bytes()))
    with pytest.raises(ValueError, match="of 2561 tokens, and a backbone of vocabulary_size=2560"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)


def test_a_preset_whose_files_were_exchanged(lm, tmp_path):
    lm.save_to_preset(tmp_path)
    content = json.loads((tmp_path / "preprocessor.json").read_text())
    content["config"]["tokens_per_image"] = 9
    (tmp_path / "preprocessor.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tokens_per_image=9 of the preprocessor, tokens_per_im"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_image": 5}, "tokens_per_image=5 of the preprocessor, tokens_per_image=4 of"),
        ({"size": (14, 14)}, r"image_size=\(14, 14\) of the .*, image_size=\(28, 28\) of the back"),
        ({"size": (28, 14)}, r"image_size=\(28, 14\)"),
    ],
)
def test_images(lm, changes, message):
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM(lm.backbone, _preprocessor(**changes))
    before = lm.preprocessor
    with pytest.raises(ValueError, match=message):
        lm.preprocessor = _preprocessor(**changes)
    assert lm.preprocessor is before


def test_ids_of_image_tokens(lm):

    config = lm.backbone.config
    for name, other in (("image_token_id", 5), ("end_of_image_token_id", 3)):
        backbone = tiny_backbone(dataclasses.replace(config, **{name: other}))
        mine = getattr(TOKENIZER, name)
        message = f"{name}={mine} of the preprocessor, {name}={other} of the backbone"
        with pytest.raises(ValueError, match=message):
            T5Gemma2Seq2SeqLM(backbone, _preprocessor())
    # The end-of-image id has a vector of its own in a model of text, too; the other has not.
    config = dataclasses.replace(ONE_LAYER, end_of_image_token_id=3)
    with pytest.raises(ValueError, match="end_of_image_token_id=3 of the backbone"):
        T5Gemma2Seq2SeqLM(tiny_backbone(config), _preprocessor(size=None))
    config = dataclasses.replace(ONE_LAYER, image_token_id=3)
    assert T5Gemma2Seq2SeqLM(tiny_backbone(config), _preprocessor(size=None)) is not None
    config = dataclasses.replace(ONE_LAYER, end_of_image_token_id=256_000)
    assert T5Gemma2Seq2SeqLM(tiny_backbone(config), _preprocessor(size=None)) is not None


def test_images_for_a_backbone_of_text():
    with pytest.raises(ValueError, match="image_converter=T5Gemma2ImageConverter, and a backbone"):
        T5Gemma2Seq2SeqLM(tiny_backbone(ONE_LAYER), _preprocessor())


def test_what_fits_is_taken(lm):
    before = lm.preprocessor
    lm.preprocessor = _preprocessor(size=None, tokens_per_image=99)  # no images at all
    assert lm.generate("the cat", max_new_tokens=1) is not None
    lm.preprocessor = None
    assert lm.preprocessor is None
    lm.preprocessor = before
    x = lm.preprocessor.generate_preprocess(
        {"encoder_text": "<start_of_image>", "images": [random_image()]}
    )
    assert np.shape(x["images"]) == (1, 28, 28, 3)


def test_a_vocabulary_that_came_later(lm, larger, tmp_path):
    tokenizer = T5Gemma2Tokenizer()
    other = T5Gemma2Seq2SeqLM(lm.backbone, _preprocessor(tokenizer))
    tokenizer.set_proto(larger.loaded_vocabulary().data)
    with pytest.raises(ValueError, match=f"a tokenizer of {_SIZE + 1} tokens"):
        other.fit({"encoder_text": ["the"], "decoder_text": ["cat"]}, verbose=0)
    path = tmp_path / "x.keras"
    lm.save(path)
    assert keras.saving.load_model(path).preprocessor.tokenizer.vocabulary_size() == _SIZE
