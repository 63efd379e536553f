"""Gaps that the user marks."""

import re
import types

import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2 import T5Gemma2ChatPreprocessor, T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation.infilling import infill


@pytest.fixture(scope="module")
def lm():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    return lm


@pytest.mark.once
def test_the_small_model_fills_gaps(lm):
    texts = [
        "1948-04-02 = Indonesian <extra_0> April <extra_1>",
        "2026-12-17 = French 17 <extra_0> 2026",
        "462 = Japanese <extra_0>",
    ]
    filled = lm.infill(texts, max_new_tokens=24)
    assert filled == [["2", "1948"], ["décembre"], ["四百六十二"]]


@pytest.mark.once
def test_dialogues_have_no_gaps(lm):
    dialogue = [{"role": "user", "content": "a <extra_0>"}]
    with pytest.raises(ValueError, match="not of dialogues. Received messages in row 0"):
        lm.infill(dialogue)
    base = lm.preprocessor
    parts = {"tokenizer": base.tokenizer, "image_converter": base.image_converter}
    ours = T5Gemma2ChatPreprocessor(**{**base.get_config(), **parts})
    with pytest.raises(ValueError, match="not of dialogues. Received a task with a `T5Gemma2Chat"):
        infill(Answers(types.SimpleNamespace(preprocessor=ours)), "a <extra_0>")


class Answers:
    """A generator that gives these texts."""

    def __init__(self, lm, *texts):
        self.preprocessor, self.texts, self.rows = lm.preprocessor, list(texts), None

    def generate(self, rows, strip_prompt):
        assert strip_prompt
        self.rows = rows
        return self.texts


@pytest.mark.parametrize(
    ("answer", "gaps"),
    [
        (" one\n<unused6236> two <unused6235>", ["one", "two", ""]),
        # In another order, one twice, one not at all.
        ("<unused6235>three<unused6237>again", ["", None, "three"]),
        # A sentinel that has no gap is text.
        ("one<unused6236>two<unused6234>x", ["one", "two<unused6234>x", None]),
    ],
)
def test_gaps_are_given_by_their_sentinels(lm, answer, gaps):
    generator = Answers(lm, answer)
    assert infill(generator, "a<extra_0>b<extra_1> c <extra_2>") == gaps
    (row,) = generator.rows
    assert row.encoder_text == "a<unused6237>b<unused6236> c <unused6235>"
    assert row.decoder_text == "<unused6237>"


def test_another_first_sentinel(lm):
    generator = Answers(lm, "x<unused6235>y")
    filled = infill(generator, ["<extra_0> a <extra_1>"], first_sentinel="<unused6236>")
    assert filled == [["x", "y"]]
    assert generator.rows[0].encoder_text == "<unused6236> a <unused6235>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no gap", r"in row 1: \[\]"),
        ("<extra_1> <extra_0>", r"in row 1: \['<extra_1>', '<extra_0>'\]"),
        ("<extra_0> <extra_0>", r"in row 1: \['<extra_0>', '<extra_0>'\]"),
        ("".join(f"<extra_{i}>" for i in range(5)), r"at most 4 gaps.*in row 1: 5"),
    ],
)
def test_gaps_that_are_not_in_order_are_an_error(lm, row, message):
    with pytest.raises(ValueError, match=message):
        lm.infill(["<extra_0>", row])


def test_what_does_not_go_with_gaps_is_an_error(lm):
    with pytest.raises(ValueError, match="Received one in row 0"):
        lm.infill({"encoder_text": "<extra_0>", "decoder_text": "a"})
    with pytest.raises(ValueError, match="num_return_sequences=3"):
        lm.infill("<extra_0>", num_return_sequences=3)
    with pytest.raises(ValueError, match="return_scores=True"):
        lm.infill("<extra_0>", return_scores=True)
    with pytest.raises(ValueError, match=re.escape("Received: '<unused6237>'")):
        tiny_task(vision=False).infill("<extra_0>")
    with pytest.raises(ValueError, match="preprocessor=None"):
        T5Gemma2Seq2SeqLM(lm.backbone).infill("<extra_0>")


@pytest.mark.once
def test_with_an_image(lm):
    image = np.zeros((32, 32, 3), "uint8")
    prompt = {"encoder_text": "<start_of_image>Which <extra_0> is this?", "images": image}
    assert lm.infill(prompt, max_new_tokens=8) == lm.infill([prompt], max_new_tokens=8)[0]
