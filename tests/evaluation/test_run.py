"""A run over rows with references: batches, the file of predictions, and data that is none."""

import numpy as np
import pytest
from evaluated import DATA, EXACT, Upper, lines

from keras_t5gemma2 import evaluate_generation
from keras_t5gemma2.evaluation.run import Examples, Run, read, table_of_samples


def test_batches_are_of_similar_length_and_equal_size():
    """Each number of rows would be a program to compile: the last row fills up its batch."""
    lm = Upper()
    evaluate_generation(lm, DATA, batch_size=3, **EXACT)
    assert lm.seen == [["b", "e", "cc"], ["ddd", "aaaa", "aaaa"]]
    lm = Upper()
    evaluate_generation(lm, DATA, batch_size=4, **EXACT)
    assert [len(batch) for batch in lm.seen] == [3, 3]
    lm = Upper()
    evaluate_generation(lm, DATA, batch_size=32, **EXACT)
    assert [len(batch) for batch in lm.seen] == [5]


pytestmark = pytest.mark.once


def test_references_from_arrays_and_bytes():
    data = {"encoder_text": np.array(["a", "b"]), "decoder_text": np.array([b"A", b"x"])}
    assert evaluate_generation(Upper(), data, **EXACT) == {"exact_match": 50.0}


def test_file_of_predictions(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("of another time\n")
    data = {**DATA, "encoder_text": ["aaaa", "ß", "cc", "ddd", "e"]}
    evaluate_generation(Upper(), data, base=Upper(), predictions_path=path, **EXACT)
    assert [line["index"] for line in lines(path)] == [1, 4, 2, 3, 0]
    assert lines(path)[0] == {
        "index": 1,
        "input": "ß",
        "images": 0,
        "references": ["x", "B"],
        "prediction": "SS",
        "exact": False,
        "base_prediction": "SS",
        "base_exact": False,
    }
    assert "ß" in path.read_text("utf-8")


def test_progress_counts_rows(capsys):
    evaluate_generation(Upper(), DATA, batch_size=2, metrics=["exact_match"], verbose=2)
    assert "5/5" in capsys.readouterr().out
    evaluate_generation(Upper(), DATA, batch_size=2, **EXACT)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"encoder_text": [], "decoder_text": []}, ValueError, "an empty batch"),
        ({"decoder_text": ["a"] * 3}, ValueError, "5 of the inputs and 3 of `decoder_text`"),
        ({"decoder_text": "a"}, ValueError, "5 of the inputs and one text of"),
        ({"decoder_text": None}, TypeError, r"one with \['encoder_text', 'decoder_text'\]"),
        ({"decoder_text": ["a", [], "c", "d", "e"]}, ValueError, "row 1: an empty list"),
        ({"decoder_text": ["a", "b", ["c", 3], "d", "e"]}, TypeError, "row 2: 3 "),
        ({"decoder_prompt": ["a"]}, ValueError, "'decoder_text': 1"),
    ],
    ids=[
        *("no rows", "fewer references", "one text", "no references", "an empty list"),
        *("a number", "fewer prompts"),
    ],
)
def test_bad_data_is_named(change, error, message):
    with pytest.raises(error, match=message):
        evaluate_generation(Upper(), {**DATA, **change}, **EXACT)


def test_a_model_needs_a_preprocessor():
    bare = Upper()
    bare.preprocessor = None
    with pytest.raises(ValueError, match="a Upper with preprocessor=None"):
        evaluate_generation(bare, DATA, **EXACT)


def test_rows_and_references_are_read_once():
    examples = read({**DATA, "decoder_prompt": ["1", "2", "3", "4", "5"]})
    assert [row.encoder_text for row in examples.rows] == DATA["encoder_text"]
    assert [row.decoder_text for row in examples.rows] == ["1", "2", "3", "4", "5"]
    assert examples.references == [["AAAA"], ["x", "B"], ["cc"], ["DDD"], ["E"]]
    assert read(examples) is examples
    assert read((["a"], [b"A"])).references == [["A"]]
    assert read({"question": "a", "answer": "A"}, columns=NAMES).references == [["A"]]


NAMES = {"question": "encoder_text", "answer": "decoder_text"}


def test_predictions_of_a_run_that_was_cut_off():
    """Each model has those of the same rows, and none of the others'."""
    run = Run([Upper(), Upper(batches=2)], read(DATA))
    assert run.predictions() == [[None] * 5] * 2
    with pytest.raises(KeyboardInterrupt):
        run.generate(batch_size=2, verbose=0)
    assert run.predictions() == [[None, "B", "CC", "DDD", "E"]] * 2
    texts, references = run.pairs(run.predictions()[0])
    assert texts == ["B", "CC", "DDD", "E"]
    assert references == [["x", "B"], ["cc"], ["DDD"], ["E"]]
    assert run.pairs([None] * 5) == ([], [])


def test_samples_are_a_line_each():
    examples = read(DATA)
    table = table_of_samples(examples, ["AAAA", None, "cc", "x", "y"], 2)
    assert table.splitlines() == [
        "input   target    output",
        "'aaaa'  'AAAA'    'AAAA'",
        "'b'     'x' (+1)",
    ]
    row = examples.rows[0]._replace(encoder_text=None, images=(1, 2))
    other = table_of_samples(Examples([row], [["a" * 99]]), ["b\nc"], 5).splitlines()
    assert other[1].startswith("'2 images'  'aaa") and other[1].endswith("'b\\nc'")
    assert len(other) == 2 and len(other[1]) < 90
