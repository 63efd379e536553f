"""Chat templates go with a model, and come with one."""

import pytest
from dialogues import GEMMA_2, GEMMA_3, model, system, user
from transformers import AutoTokenizer

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.files.chat_template import TEMPLATE_FILE

pytestmark = pytest.mark.once


def tiny_lm():
    return T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)


DIALOGUE = [user("the cat\r\n é "), model("a dog"), user("what?")]


@pytest.mark.parametrize("template", [None, GEMMA_2])
def test_the_reference_renders_what_is_exported_the_same(tmp_path, template):
    lm = tiny_lm()
    lm.preprocessor.chat_template = template
    lm.export_to_transformers(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ours = lm.preprocessor
    options = {"add_generation_prompt": True}
    text = tokenizer.apply_chat_template(DIALOGUE, tokenize=False, **options)
    assert text == ours.apply_chat_template(DIALOGUE)
    ids = tokenizer.apply_chat_template(DIALOGUE, **options)["input_ids"]
    assert ids == ours.apply_chat_template(DIALOGUE, tokenize=True)
    again = T5Gemma2Seq2SeqLMPreprocessor.from_preset(tmp_path)
    assert again.chat_template == ours.template_in_use()
    assert again.apply_chat_template(DIALOGUE, tokenize=True) == ids


def test_an_old_template_goes_where_none_is_written(tmp_path):
    lm = tiny_lm()
    lm.export_to_transformers(tmp_path)
    assert (tmp_path / TEMPLATE_FILE).is_file()
    lm.preprocessor = None
    lm.export_to_transformers(tmp_path)
    assert not (tmp_path / TEMPLATE_FILE).exists()


def test_a_checkpoints_own_template_is_honoured(tmp_path):
    lm = tiny_lm()
    lm.export_to_transformers(tmp_path)
    (tmp_path / TEMPLATE_FILE).write_text(GEMMA_3.replace("model", "robot"))
    again = T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    text = again.preprocessor.apply_chat_template([system("a"), user("b")])
    assert text.endswith("<start_of_turn>robot\n")
    # And goes on to presets of either kind.
    again.save_to_preset(tmp_path / "own")
    again.save_to_keras_hub_preset(tmp_path / "hub")
    for name in ("own", "hub"):
        ours = T5Gemma2Seq2SeqLM.from_preset(tmp_path / name).preprocessor
        assert ours.apply_chat_template([system("a"), user("b")]) == text


def test_a_template_that_is_none_is_refused_with_its_file(tmp_path):
    tiny_lm().export_to_transformers(tmp_path)
    (tmp_path / TEMPLATE_FILE).write_text("{% if %}")
    with pytest.raises(ValueError, match="`chat_template` must be a Jinja template"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)
