"""Evaluation of dialogues: the last answer of each is generated and compared."""

import pytest
from evaluated import EXACT, lines
from tasks import tiny_task

from keras_t5gemma2 import EvaluateGeneration, T5Gemma2ChatPreprocessor, evaluate_generation
from keras_t5gemma2.evaluation.run import Run, read, table_of_samples

pytestmark = pytest.mark.once


def said(*contents):
    roles = ["user", "assistant"]
    pairs = enumerate(contents)
    return [{"role": roles[place % 2], "content": content} for place, content in pairs]


DIALOGUES = [
    said("the cat", "a dog", "what?", " a red bee "),
    said("here", [{"type": "text", "text": "the garden"}]),
    said("a house", "the bee", "and the cat?"),
]


@pytest.fixture(scope="module")
def lm():
    return tiny_task(vision=False)


def test_each_row_is_the_dialogue_before_its_last_answer():
    rows, references = read({"messages": DIALOGUES})
    assert references == [["a red bee"], ["the garden"], ["the bee"]]
    assert [len(row.encoder_text.messages) for row in rows] == [3, 1, 1]
    assert [row.decoder_text for row in rows] == [None] * 3
    assert [row.number for row in rows] == [0, 1, 2]


def test_other_forms_are_the_same():
    whole = read({"messages": DIALOGUES})
    assert read(DIALOGUES) == whole == read([{"messages": one} for one in DIALOGUES])
    prompts = {"prompt": [one[:-1] for one in DIALOGUES[:2]], "completion": [" a red bee", "b"]}
    rows, references = read(prompts)
    assert rows == whole.rows[:2] and references == [["a red bee"], ["b"]]
    assert read({"question": DIALOGUES}, {"question": "messages"}) == whole


def test_predictions_are_the_answers_of_chat(lm):
    before = [DIALOGUES[0][:3], DIALOGUES[1][:1], DIALOGUES[2][:1]]
    answers = lm.chat(before, max_new_tokens=5)
    data = {"messages": DIALOGUES}
    result = evaluate_generation(lm, data, max_new_tokens=5, **EXACT)
    assert result.predictions == answers
    right = {"messages": [[*a, *said("", b)[1:]] for a, b in zip(before, answers, strict=True)]}
    if all(answer == answer.strip() and answer for answer in answers):
        assert evaluate_generation(lm, right, max_new_tokens=5, **EXACT) == {"exact_match": 100.0}


def test_a_preprocessor_of_dialogues_gives_the_same(lm):
    chats = type(lm)(lm.backbone, T5Gemma2ChatPreprocessor(lm.preprocessor.tokenizer))
    chats.compile(sampler="greedy")
    options = {"max_new_tokens": 5, **EXACT}
    result = evaluate_generation(chats, {"messages": DIALOGUES}, **options)
    assert (
        result.predictions
        == evaluate_generation(lm, {"messages": DIALOGUES}, **options).predictions
    )


def test_files_and_tables_show_messages(tmp_path):
    path = tmp_path / "predictions.jsonl"
    data = {"messages": DIALOGUES[:1]}
    evaluate_generation(lambda rows, **_: ["x"] * len(rows), data, predictions_path=path, **EXACT)
    (line,) = lines(path)
    assert line["input"] == DIALOGUES[0][:3] and line["references"] == ["a red bee"]
    run = Run([len], read(data))
    assert "'what?'" in table_of_samples((run.rows, run.references), ["x"], 1)


def test_the_callback_takes_them(lm):
    callback = EvaluateGeneration({"messages": DIALOGUES}, max_new_tokens=3, **EXACT)
    assert len(callback.data.rows) == 3


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(ValueError, match="row 1"):
        read({"messages": [DIALOGUES[0], said("a")]})
    with pytest.raises(ValueError, match="'assistant'"):
        read({"prompt": ["a"]})
