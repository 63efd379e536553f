"""The preprocessor for which every text is a turn."""

import json

import numpy as np
import pytest
from dialogues import GEMMA_2, model, user
from preprocessors import BOS, EOS, TOKENIZER, assert_equal, random_image, tiny_preprocessor
from tasks import ONE_LAYER, small_task

from keras_t5gemma2 import (
    T5Gemma2ChatPreprocessor,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
)

pytestmark = pytest.mark.once


def chat_preprocessor(**changes):
    base = tiny_preprocessor()
    config = {**base.get_config(), "tokenizer": TOKENIZER, "image_converter": base.image_converter}
    return T5Gemma2ChatPreprocessor(**{**config, **changes})


def save(preprocessor, directory):
    """Saves a preset of a task with the preprocessor."""
    lm = small_task(ONE_LAYER)
    lm.preprocessor = preprocessor
    lm.save_to_preset(directory)


def test_texts_are_turns():
    ours, base = chat_preprocessor(), tiny_preprocessor()
    found = ours((["the cat"], ["a dog"]))
    assert_equal(found, base({"messages": [[user("the cat"), model("a dog")]]}))
    assert_equal(ours.generate_preprocess("the cat"), base.generate_preprocess([user("the cat")]))
    ours.check_rows({"encoder_text": ["the cat"], "decoder_text": ["a dog"]})


def test_messages_are_as_ever():
    ours, base = chat_preprocessor(), tiny_preprocessor()
    dialogue = [user("the cat"), model("a dog")]
    assert_equal(ours({"messages": [dialogue]}), base({"messages": [dialogue]}))


def test_markers_of_a_text_stand_for_its_images():
    image = random_image()
    row = {"encoder_text": "in <start_of_image> this", "images": image}
    parts = [{"type": "text", "text": "in "}, {"type": "image", "image": image}]
    want = [user([*parts, {"type": "text", "text": " this"}])]
    ours = chat_preprocessor()
    assert_equal(ours.generate_preprocess(row), tiny_preprocessor().generate_preprocess(want))
    ids = ours.apply_chat_template("in <start_of_image> this", tokenize=True)
    assert TOKENIZER.start_of_image_token_id not in ids
    with pytest.raises(ValueError, match="2 of them and 1 images"):
        ours.generate_preprocess({**row, "encoder_text": "<start_of_image>" * 2})


def test_a_text_ends_with_the_turn():
    ids = [BOS, *TOKENIZER.tokenize("a dog<end_of_turn>\nand"), EOS]
    arrays = {"decoder_token_ids": np.array(ids), "decoder_padding_mask": np.ones(len(ids), bool)}
    assert chat_preprocessor().generate_postprocess(arrays) == "a dog"
    batch = {name: array[None] for name, array in arrays.items()}
    assert chat_preprocessor().generate_postprocess(batch) == ["a dog"]
    whole = chat_preprocessor(chat_template="{{ messages[-1].content }}")
    assert whole.generate_postprocess(arrays) == "a dog<end_of_turn>\nand"


@pytest.mark.parametrize("template", [None, GEMMA_2])
def test_presets_keep_class_and_template(tmp_path, template):
    ours = chat_preprocessor(chat_template=template, image_converter=None)
    save(ours, tmp_path)
    saved = json.loads((tmp_path / "preprocessor.json").read_text())["config"]
    assert saved.get("chat_template") == template and ("chat_template" in saved) == bool(template)
    assert type(T5Gemma2Seq2SeqLM.from_preset(tmp_path).preprocessor) is T5Gemma2ChatPreprocessor
    for cls in (T5Gemma2ChatPreprocessor, T5Gemma2Seq2SeqLMPreprocessor):
        again = cls.from_preset(tmp_path)
        assert type(again) is T5Gemma2ChatPreprocessor
        assert again.chat_template == template
        assert again.encoder_sequence_length == ours.encoder_sequence_length


def test_a_preset_of_the_base_becomes_one_of_dialogues(tmp_path):
    save(tiny_preprocessor(chat_template=GEMMA_2, image_converter=None), tmp_path)
    ours = T5Gemma2ChatPreprocessor.from_preset(tmp_path, decoder_sequence_length=9)
    assert (ours.chat_template, ours.tokens_per_image) == (GEMMA_2, 3)
    assert (ours.encoder_sequence_length, ours.decoder_sequence_length) == (131, 9)
    with pytest.raises(TypeError, match="Did you mean `chat_template`"):
        T5Gemma2ChatPreprocessor.from_preset(tmp_path, chat_templates=GEMMA_2)
