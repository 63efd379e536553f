"""Batches of any kind get a column of what a model makes of them."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from keras_t5gemma2 import BatchInference, T5Gemma2Seq2SeqLM, T5Gemma2TextEmbedder
from keras_t5gemma2.tasks import batch_inference

pytestmark = pytest.mark.once
QUESTIONS = ["Spell 4268 in German.", "Write 2026-12-17 in Hindi.", "Spell 7 in French."]
GREEDY = {"temperature": 0, "max_new_tokens": 24}
COLUMNS = {"question": "encoder_text"}


@pytest.fixture(scope="module")
def answers():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    return lm.generate(QUESTIONS, **GREEDY)


KINDS = {
    "dict": lambda data: data,
    "arrays": lambda data: {name: np.array(values, object) for name, values in data.items()},
    "pandas": pd.DataFrame,
    "arrow": pa.table,
    "rows": lambda data: pd.DataFrame(data).to_dict("records"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_each_kind_keeps_its_kind_and_columns(answers, kind):
    data = {"id": [3, 1, 2], "question": QUESTIONS}
    batch = KINDS[kind](data)
    found = BatchInference("t5gemma2_tiny", columns=COLUMNS, **GREEDY)(batch)
    assert type(found) is type(batch)
    table = pd.DataFrame(found.to_pydict() if kind == "arrow" else found)
    assert list(table.columns) == ["id", "question", "output"]
    assert table["id"].tolist() == [3, 1, 2] and table["output"].tolist() == answers
    assert "output" not in pd.DataFrame(batch.to_pydict() if kind == "arrow" else batch)


@pytest.mark.parametrize(
    "kind",
    ["arrays", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pandas", "arrow"))],
)
def test_vectors_and_scores(answers, kind):
    data = {"encoder_text": QUESTIONS, "decoder_text": answers}
    batch = KINDS[kind](data)
    vectors = BatchInference("t5gemma2_tiny", "embed", "vector", dimensions=16)(batch)["vector"]
    scores = BatchInference("t5gemma2_tiny", "score")(batch)["score"]
    vectors, scores = (x.to_pylist() if kind == "arrow" else x for x in (vectors, scores))
    want = T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny").encode_text(QUESTIONS, dimensions=16)
    np.testing.assert_allclose(np.array(list(vectors)), want, atol=1e-5)
    want = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").score(data)
    np.testing.assert_allclose(np.array(list(scores)), want, atol=1e-4)


@pytest.mark.slow
def test_a_process_loads_one_model_once(monkeypatch, answers):
    loaded, load = [], T5Gemma2Seq2SeqLM.from_preset

    def spy(preset, **options):
        loaded.append(options)
        return load(preset, **options)

    monkeypatch.setattr(T5Gemma2Seq2SeqLM, "from_preset", spy)
    batch_inference._loaded.clear()
    spell = BatchInference("t5gemma2_tiny", load={"text_only": True}, **GREEDY)
    assert len(pickle.dumps(spell)) < 1000 and not loaded
    for part in range(3):  # as an engine sends it
        again = pickle.loads(pickle.dumps(spell))
        found = list(again.over([{"encoder_text": [QUESTIONS[part]]}]))
        assert found[0]["output"] == [answers[part]]
    assert loaded == [{"text_only": True}]
    BatchInference("t5gemma2_tiny", **GREEDY)({"encoder_text": QUESTIONS})
    assert len(loaded) == 2 and len(batch_inference._loaded) == 1


def test_a_batch_without_rows_is_left_as_it_is():
    assert BatchInference("no_preset")([]) == []
    assert BatchInference("no_preset")(pd.DataFrame({"encoder_text": []})).empty


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"call": "translate"}, ValueError, r"`call` must be one of \('generate', 'embed', 's"),
        ({"max_token": 3}, TypeError, r"no argument `max_token`. Did you mean `max_new_tokens`"),
        ({"prompt": "x"}, TypeError, r"`BatchInference` has no argument `prompt`"),
        ({"return_scores": True}, TypeError, r"has no argument `return_scores`"),
        ({"columns": {"question": "text"}}, ValueError, r"`columns` must rename to one of"),
    ],
)
def test_arguments_are_checked_before_a_model_is_loaded(arguments, kind, message):
    with pytest.raises(kind, match=message):
        BatchInference("no_preset", **arguments)


@pytest.mark.parametrize(
    ("batch", "kind", "message"),
    [
        (["Spell 42."], TypeError, r"A batch must be .* or a list of dicts"),
        ("Spell 42.", TypeError, r"A batch must be a dict of columns, a data frame, an Arrow"),
        ({"output": ["a"]}, ValueError, r"`output` must be the name of no column"),
        ({"question": ["a"]}, ValueError, r"An input must hold one of"),
    ],
)
def test_batches_are_checked(batch, kind, message):
    with pytest.raises(kind, match=message):
        BatchInference("t5gemma2_tiny", **GREEDY)(batch)
