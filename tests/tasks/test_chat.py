"""Answers to dialogues, and learning from them."""

import types

import numpy as np
import pytest
from dialogues import GEMMA_2, IMAGE, model, text, user
from tasks import ONE_LAYER, TOKENIZER, small_task, tiny_task

from keras_t5gemma2 import T5Gemma2ChatPreprocessor, T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks import chat as module

MESSAGES = [user("the cat")]
OTHER = [user("what"), model("a dog"), user("is in the garden")]
LENGTHS = {"max_new_tokens": 4, "verbose": 0}


def roomy_task():
    lm = small_task(ONE_LAYER)
    lm.preprocessor.set_lengths(encoder_sequence_length=64, decoder_sequence_length=24)
    return lm


@pytest.fixture(scope="module")
def lm():
    return roomy_task()


def stops(lm):
    return lm.preprocessor.tokenizer.end_of_turn_token_id, lm.preprocessor.tokenizer.end_token_id


def test_an_answer_is_what_generate_gives_for_the_whole_prompt(lm):
    prompts = lm.preprocessor.apply_chat_template([MESSAGES, OTHER])
    prompts = [prompt.removeprefix("<bos>") for prompt in prompts]
    want = lm.generate(prompts, stop_token_ids=stops(lm), **LENGTHS)
    assert lm.chat([MESSAGES, OTHER], **LENGTHS) == want
    assert lm.chat(MESSAGES, **LENGTHS) == want[0]
    assert lm.chat("the cat", **LENGTHS) == want[0]


def test_pieces_are_the_answer(lm):
    want = lm.chat([MESSAGES, OTHER], **LENGTHS)
    assert "".join(lm.chat(MESSAGES, stream=True, **LENGTHS)) == want[0]
    texts = ["", ""]
    for row, piece in lm.chat([MESSAGES, OTHER], stream=True, **LENGTHS):
        texts[row] += piece
    assert texts == want


@pytest.mark.once
def test_fit_learns_each_answer_and_chat_stops_at_the_end_of_the_turn():
    lm = roomy_task()
    dialogue = [user("the cat"), model("a dog"), user("what?"), model("a red bee")]
    lm.compile(optimizer="adam", sampler="greedy")
    lm.optimizer.learning_rate = 0.02
    lm.fit({"messages": [dialogue] * 4}, batch_size=8, epochs=40, verbose=0)
    assert lm.chat(dialogue[:1], max_new_tokens=12) == "a dog"
    assert lm.chat(dialogue[:3], max_new_tokens=12) == "a red bee"
    assert "".join(lm.chat(dialogue[:3], stream=True, max_new_tokens=12)) == "a red bee"
    # Without the stop it is the end of the turn that is written, then the end of the text.
    text = lm.chat(dialogue[:1], max_new_tokens=12, stop_token_ids=[1])
    assert text == "a dog"
    assert lm.chat([dialogue[:1]], max_new_tokens=12, num_return_sequences=1) == ["a dog"]


@pytest.mark.once
def test_fit_takes_dialogues_from_anywhere(lm):
    dialogue = [*OTHER, model("a red bee")]
    assert len(lm.preprocess_samples({"messages": [dialogue, dialogue]})[1]) == 4
    want = lm.evaluate({"messages": [dialogue] * 2}, verbose=0)
    assert lm.evaluate([dialogue] * 2, verbose=0) == want
    assert lm.evaluate([{"messages": dialogue}] * 2, verbose=0) == want
    assert np.allclose(lm.evaluate(iter([{"messages": dialogue}] * 2), verbose=0), want)
    assert np.allclose(lm.evaluate(iter([{"messages": [dialogue] * 2}]), verbose=0), want)
    scores = lm.score({"messages": [dialogue]})
    assert scores.shape == (2,)
    pair = {"prompt": [OTHER], "completion": ["a red bee"]}
    assert np.allclose(lm.score(pair), scores[1:])


@pytest.mark.once
def test_weights_are_those_of_dialogues(lm):
    dialogues = [[*OTHER, model("a red bee")], [user("is"), model("here")]]
    only = lm.evaluate({"messages": dialogues[:1]}, verbose=0)
    weights = np.array([1.0, 0.0])
    assert np.allclose(lm.evaluate({"messages": dialogues}, sample_weight=weights, verbose=0), only)
    stream = iter([({"messages": dialogues}, None, weights)])
    assert np.allclose(lm.evaluate(stream, verbose=0), only)
    with pytest.raises(ValueError, match=r"of shape \(3,\) and 2 rows"):
        lm.evaluate({"messages": dialogues}, sample_weight=np.ones(3), verbose=0)


@pytest.mark.once
def test_images_of_messages_are_read():
    lm = tiny_task()
    lm.preprocessor.set_lengths(encoder_sequence_length=64)
    image = np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype="uint8")
    want = lm.chat([user([{"type": "image", "image": image}, text("the cat")])], **LENGTHS)
    assert lm.chat([user([IMAGE, text("the cat")])], images=image, **LENGTHS) == want
    assert lm.chat([user("the cat")], images=image, **LENGTHS) == want
    assert lm.chat([[user("the cat")]], images=[[image]], **LENGTHS) == [want]
    with pytest.warns(UserWarning, match="`<start_of_image>` in a message is text"):
        lm.chat([user("<start_of_image> the cat")], images=image, **LENGTHS)


@pytest.mark.once
def test_an_own_template_says_how_a_turn_ends(monkeypatch):
    lm = small_task(ONE_LAYER)
    lm.preprocessor.chat_template = "{% for m in messages %}{{ m.content }}<unused0>{% endfor %}"
    seen = {}

    def generate(self, rows, **options):
        seen.update(options)
        return ["a dog<unused0>"]

    monkeypatch.setattr(T5Gemma2Seq2SeqLM, "generate", generate)
    assert lm.chat(MESSAGES) == "a dog"
    assert seen["stop_token_ids"] == (TOKENIZER.token_to_id("<unused0>"), 1)
    assert lm.chat(MESSAGES, stop_token_ids=[5]) == "a dog" and seen["stop_token_ids"] == [5]
    lm.preprocessor.chat_template = "{{ messages[-1].content }}"
    assert lm.chat(MESSAGES) == "a dog<unused0>" and seen["stop_token_ids"] == (1,)


@pytest.mark.once
def test_a_task_with_a_chat_preprocessor_stops_at_the_end_of_the_turn():
    lm = small_task(ONE_LAYER, seed=1)
    lm.preprocessor.set_lengths(encoder_sequence_length=64, decoder_sequence_length=24)
    config = {**lm.preprocessor.get_config(), "tokenizer": TOKENIZER, "image_converter": None}
    # Its turns end with the third token that the model happens to write.
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role != 'user' %}here{% endif %}{% endfor %}"
    )
    lm.preprocessor = T5Gemma2ChatPreprocessor(**{**config, "chat_template": template})
    options = {"max_new_tokens": 8, "verbose": 0}
    whole = lm.generate("the cat", stop_token_ids=None, return_scores=True, **options)
    end = TOKENIZER.token_to_id("here")
    assert (
        whole.token_ids.tolist().index(end) == 2 and whole.texts == "the\N{REPLACEMENT CHARACTER}"
    )
    found = lm.generate("the cat", return_scores=True, **options)
    assert found.token_ids.tolist() == whole.token_ids[:3].tolist() and found.finished
    assert found.texts == whole.texts
    assert "".join(lm.stream("the cat", **options)) == found.texts
    assert "".join(lm.stream("the cat", stop_token_ids=None, **options)) == found.texts
    answer = lm.chat("the cat", return_scores=True, **options)
    assert (answer.texts, answer.scores) == (found.texts, found.scores)
    lm.warmup(16, new_tokens=8)  # for the same stops


@pytest.mark.once
def test_an_end_of_several_tokens_is_left_out():
    pieces = [(0, "a d"), (0, "og | en"), (0, "d. and"), (0, "more")]
    assert "".join(module._pieces(iter(pieces), "| end.", True)) == "a dog "
    assert list(module._pieces(iter(pieces[:2]), "| end.", False)) == [
        *((0, "a d"), (0, "og "), (0, "| en"))
    ]
    assert module._without(["a dog | end. and"], "| end.") == ["a dog "]


@pytest.mark.once
def test_the_end_of_the_turn_is_left_out_of_whatever_generate_gives():
    pair = types.SimpleNamespace
    found = {"text": ["a<e>", "b"], "n": 1}
    assert module._without(found, "<e>") == {"text": ["a", "b"], "n": 1}
    assert module._without(("a<e>", 2.0), "<e>") == ("a", 2.0)
    assert module._without(pair, "<e>") is pair


@pytest.mark.once
@pytest.mark.parametrize(
    ("messages", "options", "error", "match"),
    [
        (7, {}, ValueError, "`messages` must be a list of messages, .* Received: 7"),
        ([], {}, ValueError, r"`messages` must be a list of messages, .* Received: \[\]"),
        (["a"], {}, ValueError, "`messages` must be a list of messages"),
        ([user("a"), model("b")], {}, ValueError, "must not end with a message of its own"),
        (
            [user("a"), user("b")],
            {},
            ValueError,
            "In row 0: The chat template refuses .* alternate",
        ),
        (MESSAGES, {"inputs": "a"}, TypeError, "`chat` has no argument `inputs`. Give `messages`"),
        (MESSAGES, {"strip_prompt": True}, TypeError, "`strip_prompt`. Leave it out"),
        (MESSAGES, {"stream": "yes"}, TypeError, "`stream` must be True or False"),
        (MESSAGES, {"temperatur": 1}, TypeError, "temperatur"),
    ],
)
def test_what_cannot_be_answered_is_refused(lm, messages, options, error, match):
    with pytest.raises(error, match=match):
        lm.chat(messages, **options)


@pytest.mark.once
def test_chat_needs_a_preprocessor():
    lm = small_task(ONE_LAYER)
    lm.preprocessor = None
    with pytest.raises(ValueError, match="`chat` needs a preprocessor.* preprocessor=None"):
        lm.chat(MESSAGES)


@pytest.mark.once
def test_gemma_2_refuses_a_system_message(lm):
    lm.preprocessor.chat_template = GEMMA_2
    try:
        with pytest.raises(ValueError, match="System role not supported"):
            lm.chat([{"role": "system", "content": "a"}, user("b")])
    finally:
        lm.preprocessor.chat_template = None
