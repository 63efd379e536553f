"""A `tokenizer.json` as the SentencePiece model that splits text in the same way."""

import json

import keras_hub
import pytest
from keras_hub_models import SPM, TOKENIZER
from tiny_vocabulary import tiny_tokenizer_data

from keras_t5gemma2 import T5Gemma2Tokenizer
from keras_t5gemma2.checkpoints.keras_hub.tokenizer import sentencepiece_of, tokenizer_asset
from keras_t5gemma2.vocabulary.sentencepiece_model import merges, read_sentencepiece_model
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

pytestmark = pytest.mark.once


def test_a_tokenizer_json_of_sentencepiece_becomes_it_again():
    original = TOKENIZER.loaded_vocabulary()
    data = original._tokenizer.to_str().encode()
    tokenizer = T5Gemma2Tokenizer(data)
    proto = sentencepiece_of(tokenizer.loaded_vocabulary())
    old, new = (read_sentencepiece_model(model) for model in (original.data, proto))
    assert (old.pieces, old.byte_fallback) == (new.pieces, new.byte_fallback)
    assert merges(old) == merges(new)
    hub = keras_hub.models.T5Gemma2Tokenizer(proto)
    for text in ("twenty-one  cats", "<start_of_image> né 東京 \n\n!", "<bos>x"[5:]):
        assert list(hub(text)) == TOKENIZER(text)


def test_a_tokenizer_json_that_is_none_of_sentencepiece():
    with pytest.raises(ValueError, match="SentencePiece can express.*merges are not those"):
        sentencepiece_of(Vocabulary(tiny_tokenizer_data()))
    data = json.loads(TOKENIZER.loaded_vocabulary()._tokenizer.to_str())
    for change, message in (
        ({"normalizer": None}, "`normalizer` is None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "`pre_tokenizer` is"),
        ({"model": {**data["model"], "fuse_unk": False}}, "`model.fuse_unk` is False"),
    ):
        with pytest.raises(ValueError, match=message):
            sentencepiece_of(Vocabulary(json.dumps({**data, **change}).encode()))
    data["added_tokens"][0]["lstrip"] = True
    with pytest.raises(ValueError, match="the added token '<pad>' is lstrip"):
        sentencepiece_of(Vocabulary(json.dumps(data).encode()))


def test_a_model_of_sentencepiece_is_taken_as_it_is():
    assert sentencepiece_of(TOKENIZER.loaded_vocabulary()) == SPM.read_bytes()


def test_the_file_of_a_preset_is_found_where_keras_hub_writes_it(tmp_path):
    assert tokenizer_asset(tmp_path) is None
    path = tmp_path / "assets" / "tokenizer" / "vocabulary.spm"
    path.mkdir(parents=True)
    assert tokenizer_asset(str(tmp_path)) is None
    path.rmdir()
    path.touch()
    assert tokenizer_asset(str(tmp_path)) == path
