"""Vectors on stdout and in files."""

import io
import json
import re
import sys

import numpy as np
import pytest
from command_line import error_of, parsed, run

from keras_t5gemma2 import T5Gemma2TextEmbedder
from keras_t5gemma2.cli import embed

TEXTS = ["Spell 4268 in German.", "Spell 7 in Dutch.", "Japan"]
TINY = ("embed", "t5gemma2_tiny")


@pytest.fixture(scope="module")
def embedder():
    return T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")


@pytest.mark.once
def test_lines(embedder, capsys):
    lines = parsed(capsys, *TINY, *TEXTS)
    assert [line["encoder_text"] for line in lines] == TEXTS
    assert [line["index"] for line in lines] == [0, 1, 2]
    found = np.array([line["embedding"] for line in lines])
    np.testing.assert_allclose(found, embedder.encode_text(TEXTS), atol=1e-6)


@pytest.mark.once
def test_an_array_of_a_file_in_pieces(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "_ROWS_OF_A_PIECE", 1)
    rows, output = tmp_path / "rows.csv", tmp_path / "vectors.npy"
    rows.write_text("question\n" + "\n".join(TEXTS) + "\n")
    options = ("--column", "question=encoder_text", "--prompt", "find: ", "--dimensions", "16")
    run(*TINY, "--input", rows, "--output", output, *options, "--batch-size", "2")
    found = np.load(output)
    assert found.shape == (3, 16) and found.dtype == "float32"
    want = embedder.encode_text(TEXTS, prompt="find: ", dimensions=16)
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.once
def test_stdin_and_a_file_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS)))
    run(*TINY, "-", "--output", tmp_path / "a.jsonl", "--limit", "2")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["encoder_text"] for line in lines] == TEXTS[:2]


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`embed` must get a text or `--input`"),
        (["a", "--input", "b.csv"], "`--input` must stand alone.* Received: also 1 texts"),
        (["a", "--column", "b=images"], "`--column` must go with `--input`"),
        (["a", "--output", "b.txt"], "`--output` must end with one of.* Received: 'b.txt'"),
        (["a", "--dimensions", "4096"], "dimensions"),
    ],
)
def test_errors(arguments, message, capsys):
    assert re.search(message, error_of(capsys, *TINY, *arguments))
