"""Questions about evidence, and labels with their probability."""

import keras
import numpy as np
import pytest
from tasks import ONE_LAYER, TOKENIZER, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.prompted import QUESTION

pytestmark = pytest.mark.once


def roomy_task(rate=0.01):
    lm = small_task(ONE_LAYER)
    lm.preprocessor.set_lengths(encoder_sequence_length=48, decoder_sequence_length=48)
    lm.compile(optimizer="adam", sampler="greedy")
    lm.optimizer.learning_rate = rate
    return lm


QUESTIONS, ANSWERS = ["what?", "here?"], ["a dog", "the house"]


@pytest.mark.slow
def test_answers_are_learned_and_the_evidence_is_encoded_once(monkeypatch):
    # The windows of the small models are shorter than the prompts.
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(optimizer=keras.optimizers.AdamW(2e-3), sampler="greedy")
    rows = lm.rows_to_answer(QUESTIONS, ["the cat"] * 2, ANSWERS)
    lm.fit(rows, epochs=60, verbose=0)
    count, encode = [], lm.generator.encode
    monkeypatch.setattr(lm.generator, "encode", lambda *a, **k: count.append(1) or encode(*a, **k))
    assert lm.answer(QUESTIONS, "the cat", max_new_tokens=12) == ANSWERS
    assert len(count) == 1
    encoded = lm.encode("the cat")
    assert lm.answer(QUESTIONS[1], encoded, max_new_tokens=12) == ANSWERS[1]
    assert lm.answer(QUESTIONS[:1], encoded, max_new_tokens=12) == ANSWERS[:1]


def test_only_answers_are_learned():
    x, _, weights = roomy_task().rows_to_answer(QUESTIONS, ["the cat"] * 2, ANSWERS)
    for row in range(2):
        ids = np.array([*TOKENIZER.tokenize(x["decoder_text"][row]), TOKENIZER.end_token_id])
        learned = ids[weights[row, : len(ids)] == 1].tolist()
        assert TOKENIZER.detokenize(learned) == f" {ANSWERS[row]}<eos>"
        assert weights[row, len(ids) :].sum() == 0
        prompt = TOKENIZER.tokenize(QUESTION.format(question=QUESTIONS[row]))
        assert ids[: len(prompt)].tolist() == prompt


def test_an_answer_is_a_line(monkeypatch):
    lm = roomy_task()
    texts = [" a dog \nQuestion: more"]
    monkeypatch.setattr(lm.generator, "generate", lambda *a, **k: texts)
    assert lm.answer("what?", "the cat") == "a dog"
    assert lm.answer("what?", lm.encode("a"), num_return_sequences=2) == "a dog"


def test_classify_gives_the_likeliest_label_and_its_probability():
    lm = roomy_task()
    labels = ["a cat", "the dog", "bee"]
    found = lm.classify(["in the house", "red"] * 5, labels)
    assert len(found) == 10
    for text, (label, probability) in zip(["in the house", "red"] * 5, found, strict=True):
        rows = {"encoder_text": [f"{text}\nSentiment:"] * 3, "decoder_text": labels}
        scores = lm.score(rows)
        chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        assert label == labels[int(chances.argmax())]
        np.testing.assert_allclose(probability, chances.max(), rtol=1e-4)
    assert lm.classify("red", labels, prompt="{text}") == lm.classify(["red"], labels, "{text}")[0]


@pytest.mark.slow
def test_classify_learns():
    lm = roomy_task()
    texts, labels = ["the cat", "a flower"], ["positive", "negative"]
    lm.fit(lm.rows_to_classify(texts, labels), epochs=150, verbose=0)
    found = lm.classify(texts)
    assert [label for label, _ in found] == labels
    assert all(probability > 0.9 for _, probability in found)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda lm: lm.classify("a", ["b"]), ValueError, r"at least two strings.*labels=\['b'\]"),
        (lambda lm: lm.classify("a", ["b", "b"]), ValueError, "all different"),
        (lambda lm: lm.classify("a", prompt="b"), ValueError, r"\{text\} in it. .*prompt='b'"),
        (lambda lm: lm.classify([]), ValueError, "`texts` must hold at least one text"),
        (lambda lm: lm.classify(7), TypeError, "`texts` must be a string or strings. Received: 7"),
        (lambda lm: lm.answer("a", ["b", "c"]), ValueError, "must be one row.* Received: 2 rows"),
        (lambda lm: lm.answer([7], "b"), TypeError, "`questions` must be"),
        (lambda lm: lm.rows_to_answer(["a"], ["b"], ["c\nd"]), ValueError, "one line .* row 0"),
        (lambda lm: lm.rows_to_answer(["a"], ["b"], []), ValueError, "`answers` must hold"),
        (
            lambda lm: lm.rows_to_classify(["a", "b"], ["c"]),
            ValueError,
            "{'texts': 2, 'answers': 1}",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(roomy_task())
