"""The functions of `compat.keras_hub` do what they say with the installed keras-hub."""

import inspect

import keras_hub
import pytest

from keras_t5gemma2.compat import keras_hub as compat_hub

pytestmark = pytest.mark.once


class Texts(keras_hub.tokenizers.Tokenizer):
    """A tokenizer without a vocabulary."""

    def __init__(self):
        super().__init__()
        self._add_special_token("<pad>", "pad_token")

    def token_to_id(self, token):
        return 7


def test_special_tokens():
    tokenizer = Texts()
    assert tokenizer.special_tokens == ["<pad>"]
    tokenizer.eos, tokenizer.eos_id = "<eos>", 3
    compat_hub.set_special_tokens(tokenizer, ["eos"])
    assert (tokenizer.special_tokens, tokenizer.special_token_ids) == (["<eos>"], [3])


def test_accepts_labels():
    preprocessor = keras_hub.models.Seq2SeqLMPreprocessor(Texts())
    assert compat_hub.accepts_labels(preprocessor)
    assert not compat_hub.accepts_labels(keras_hub.layers.StartEndPacker(3))


def test_filling_in():
    class Base:
        @classmethod
        def _add_missing_kwargs(cls, loader, kwargs):
            return {"tokenizer": loader, **kwargs}

    @compat_hub.filling_in(lambda cls, loader, kwargs: kwargs.update(who=cls.__name__))
    class Filled(Base):
        pass

    class Child(Filled):
        pass

    assert Child._add_missing_kwargs("loader", {}) == {"tokenizer": "loader", "who": "Child"}
    inside = inspect.getsource(keras_hub.src.utils.preset_utils)
    assert "cls._add_missing_kwargs(self, kwargs)" in inside
