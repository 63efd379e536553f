"""Answers compared with the references in a file."""

import json
import re

import pytest
from command_line import error_of, parsed, printed

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once

TINY = ("evaluate", "t5gemma2_tiny")


@pytest.fixture
def data(tmp_path):
    rows = [
        {"q": "Spell 42 in German.", "decoder_text": ["zweiundvierzig", "42"]},
        {"q": "Spell 42 in German.", "decoder_text": ["vierzig"]},
    ]
    for row, prompt in zip(rows, ["", "zwei"], strict=True):
        row["decoder_prompt"] = prompt
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_json(data, tmp_path, capsys):
    options = ("--column", "q=encoder_text", "--metric", "exact_match", "--metric", "anls")
    file = tmp_path / "predictions.jsonl"
    more = ("--json", "--quiet", "--predictions", file, "--base", "t5gemma2_tiny")
    (found,) = parsed(capsys, *TINY, data, *options, *more)
    assert found["rows"] == 2 and found["metrics"]["exact_match"] == 50.0
    assert set(found["metrics"]) == {"exact_match", "anls"} and found["base"] == found["metrics"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["index"]: line["exact"] for line in lines} == {0: True, 1: False}


def test_table_loss_and_limit(data, capsys):
    row = {"encoder_text": "Spell 42 in German.", "decoder_text": "zweiundvierzig"}
    data.write_text(f"{json.dumps(row)}\n" * 3)
    text = printed(capsys, *TINY, data, "--loss", "--limit", "2", "--beams", "2")
    assert re.search(r"model +2 +100.0\n", text)
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    loss = lm.evaluate([row], return_dict=True, verbose=0)["loss"]
    assert float(re.search(r"^loss (.*)$", text, re.M)[1]) == pytest.approx(loss, rel=1e-3)


def test_errors(data, capsys):
    error = error_of(capsys, *TINY, data, "--base-adapter", "a")
    assert "`--base-adapter` must go with `--base`" in error
    assert "'accuracy' is not one of" in error_of(
        capsys, *TINY, data, "--metric", "accuracy", code=2
    )
