"""Tokenizer and preprocessor of T5Gemma 1."""

import pytest
from tasks import TOKENIZER
from tasks_t5gemma1 import t5gemma1_task

from keras_t5gemma2 import (
    T5Gemma2ChatPreprocessor,
    T5Gemma2DenoisingPreprocessor,
    T5GemmaSeq2SeqLM,
    T5GemmaSeq2SeqLMPreprocessor,
    T5GemmaTokenizer,
)

pytestmark = pytest.mark.once
MESSAGES = [
    {"role": "user", "content": " the cat "},
    {"role": "assistant", "content": "a dog"},
    {"role": "user", "content": "is"},
]
# As the template of the published models writes it.
TEXT = (
    "<bos><start_of_turn>user\nthe cat<end_of_turn>\n<start_of_turn>model\na dog<end_of_turn>\n"
    "<start_of_turn>user\nis<end_of_turn>\n<start_of_turn>model\n"
)


def test_ids_and_lengths():
    tokenizer = T5GemmaTokenizer(TOKENIZER.to_tokenizer_json())
    assert tokenizer("the cat") == TOKENIZER("the cat")
    preprocessor = T5GemmaSeq2SeqLMPreprocessor(tokenizer)
    assert preprocessor.encoder_sequence_length == preprocessor.decoder_sequence_length == 8192
    again = T5GemmaSeq2SeqLMPreprocessor.from_config(preprocessor.get_config())
    assert type(again.tokenizer) is T5GemmaTokenizer


def test_dialogues_are_written_as_gemma_2_writes_them():
    preprocessor = t5gemma1_task().preprocessor
    text = preprocessor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert text == TEXT


def test_other_preprocessors_take_its_presets_and_go_into_them(tmp_path):
    lm = t5gemma1_task()
    lm.save_to_preset(tmp_path)
    for cls in (T5Gemma2ChatPreprocessor, T5Gemma2DenoisingPreprocessor):
        lm.preprocessor = cls.from_preset(tmp_path)
        assert type(lm.preprocessor.tokenizer) is T5GemmaTokenizer
        place = tmp_path / cls.__name__
        lm.save_to_preset(place)
        assert type(T5GemmaSeq2SeqLM.from_preset(place).preprocessor) is cls
        again = T5GemmaSeq2SeqLM.from_config(lm.get_config())
        assert type(again.preprocessor) is cls


def test_nobody_speaks_as_the_system_whatever_the_class(tmp_path):
    t5gemma1_task().save_to_preset(tmp_path)
    for cls in (T5GemmaSeq2SeqLMPreprocessor, T5Gemma2ChatPreprocessor):
        preprocessor = cls.from_preset(tmp_path)
        with pytest.raises(ValueError, match="System role not supported"):
            preprocessor.apply_chat_template([{"role": "system", "content": "a"}, *MESSAGES])
