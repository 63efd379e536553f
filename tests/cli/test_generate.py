"""Answers on stdout and in files."""

import io
import json
import sys

import pytest
from command_line import error_of, parsed, printed, run

from keras_t5gemma2.cli import generate

TEXTS = ["Spell 4268 in German.", "Write 2026-12-17 in Hindi."]
ANSWERS = ["viertausendzweihundertachtundsechzig", "17 दिसंबर 2026"]
TINY = ("generate", "t5gemma2_tiny")


@pytest.mark.once
def test_texts(capsys):
    assert printed(capsys, *TINY, *TEXTS) == "".join(f"{text}\n" for text in ANSWERS)


@pytest.mark.once
def test_json(capsys):
    options = ("--json", "--num-return-sequences", "2", "--top-k", "1", "--seed", "3")
    lines = parsed(capsys, *TINY, *TEXTS, *options)
    assert [line["text"] for line in lines] == ANSWERS
    assert [line["texts"] for line in lines] == [[text] * 2 for text in ANSWERS]
    assert [line["encoder_text"] for line in lines] == TEXTS
    assert [line["index"] for line in lines] == [0, 1]


@pytest.mark.once
def test_stdin_and_a_prompt_of_the_decoder(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TEXTS[0]}\n{TEXTS[0]}\n"))
    options = ("-", "--decoder-text", "vier", "--max-new-tokens", "2", "--limit", "1")
    (text,) = printed(capsys, *TINY, *options).splitlines()
    assert text.startswith("vier") and ANSWERS[0].startswith(text) and text != ANSWERS[0]


@pytest.mark.once
def test_stream(capsys):
    assert printed(capsys, *TINY, TEXTS[0], "--stream") == f"{ANSWERS[0]}\n"
    error = error_of(capsys, *TINY, *TEXTS, "--stream")
    assert "`--stream` must go with one row" in error and "Received: 2 rows" in error


@pytest.mark.once
def test_an_image(tmp_path, capsys):
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    place = int(np.argmax(digits.target == 7))
    picture = np.uint8(digits.images[place] * 255 / 16)
    Image.fromarray(picture).resize((64, 64)).save(tmp_path / "seven.png")
    question = "Which number is this?"
    given = printed(capsys, *TINY, question, "--image", tmp_path / "seven.png")
    marked = printed(
        capsys, *TINY, f"<start_of_image>{question}", "--image", tmp_path / "seven.png"
    )
    assert given == marked
    rows = tmp_path / "rows.csv"
    rows.write_text(f"text,image\n<start_of_image>{question},seven.png\n")
    columns = ("--column", "text=encoder_text", "--column", "image=images")
    assert printed(capsys, *TINY, "--input", rows, *columns) == given


@pytest.mark.once
def test_a_file_in_pieces(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generate, "_ROWS_OF_A_PIECE", 1)
    rows = [{"question": text, "id": n} for n, text in enumerate([*TEXTS, *TEXTS, TEXTS[0]])]
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--input", path, "--column", "question=encoder_text", "--output", output)
    with pytest.warns(UserWarning, match="Not read.*'id'"):
        run(*TINY, *options, "--batch-size", "2")
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in found] == [*ANSWERS, *ANSWERS, ANSWERS[0]]
    assert [line["encoder_text"] for line in found] == [row["question"] for row in rows]
    assert [line["index"] for line in found] == [0, 1, 2, 3, 4]


@pytest.mark.once
def test_an_interruption_keeps_whole_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generate, "_ROWS_OF_A_PIECE", 1)
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps({"encoder_text": text}) for text in TEXTS))
    answers = generate._answers

    def interrupted(request, rows, *others):
        if rows[0]["encoder_text"] == TEXTS[1]:
            raise KeyboardInterrupt
        return answers(request, rows, *others)

    monkeypatch.setattr(generate, "_answers", interrupted)
    options = ("--input", path, "--output", output, "--batch-size", "1")
    error = error_of(capsys, *TINY, *options, code=130)
    assert f"Interrupted: {output} has the answers of the first 1 rows" in error
    assert json.loads(output.read_text())["text"] == ANSWERS[0]


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must get a text, an image, `--decoder-text` or `--input`"),
        (["a", "b", "--image", "c.png"], "`--image` must go with one text. Received: 2 texts"),
        (["a", "--input", "b.csv"], "`--input` must stand alone.* Received: also 1 texts"),
        (["a", "--column", "b=images"], "`--column` must go with `--input`"),
        (["--input", "none.csv"], "There is no such file of rows"),
        (["a", "--top-k", "2", "--sampler", "greedy"], "`--top-k` must go with --sampler top_k"),
    ],
)
def test_errors(arguments, message, capsys):
    import re

    assert re.search(message, error_of(capsys, *TINY, *arguments))
