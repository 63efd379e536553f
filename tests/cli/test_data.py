"""Rows of files."""

import json
import re
import sys

import pytest

from keras_t5gemma2.cli.data import checked_columns, read_rows

pytestmark = pytest.mark.once

ROWS = [
    {"question": "one, two\nthree", "answer": "«ü»"},
    {"question": 'say "7"', "answer": "zeven"},
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_formats_give_the_same_rows(tmp_path):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    texts = {
        "a.jsonl": f"{lines}\n\n",
        "a.json": json.dumps(ROWS),
        "a.csv": 'question,answer\n"one, two\nthree",«ü»\n"say ""7""",zeven\n',
        "a.tsv": 'question\tanswer\n"one, two\nthree"\t«ü»\n"say ""7"""\tzeven\n',
        "b.CSV": '\ufeffquestion,answer\n"one, two\nthree",«ü»\n"say ""7""",zeven\n',
    }
    for name, text in texts.items():
        assert read_rows(write(tmp_path / name, text)) == ROWS, name
    assert read_rows(tmp_path / "a.csv", limit=1) == ROWS[:1]


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=1)
    assert read_rows(tmp_path / "a.parquet") == ROWS
    assert read_rows(tmp_path / "a.parquet", limit=1) == ROWS[:1]
    write(tmp_path / "b.parquet", "no table")
    with pytest.raises(ValueError, match="b.parquet' must be a Parquet file"):
        read_rows(tmp_path / "b.parquet")


def test_line_ends_inside_of_cells_stay(tmp_path):
    text = "one\u2028two"
    path = write(tmp_path / "a.csv", f'a,b\r\n{text},"x\r\ny"\r\n')
    assert read_rows(path) == [{"a": text, "b": "x\r\ny"}]


def test_a_long_cell_of_csv(tmp_path):
    text = "x" * 300_000
    assert read_rows(write(tmp_path / "a.csv", f"encoder_text\n{text}\n")) == [
        {"encoder_text": text}
    ]


def test_images_are_found_beside_the_file(tmp_path):
    text = (
        'encoder_text,picture\na,b.png\nc,\nd,"[""e.png"", ""/f.png""]"\ng,data:image/png;base64,\n'
    )
    rows = read_rows(
        write(tmp_path / "a.csv", text.replace(";base64,", ";base64")), {"picture": "images"}
    )
    assert [row["picture"] for row in rows] == [
        str(tmp_path / "b.png"),
        None,
        [str(tmp_path / "e.png"), "/f.png"],
        "data:image/png;base64",
    ]
    lines = '{"images": ["b.png", {"bytes": null, "path": "c"}]}'
    (row,) = read_rows(write(tmp_path / "a.jsonl", lines))
    assert row["images"] == [str(tmp_path / "b.png"), {"bytes": None, "path": "c"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "must end with one of .*jsonl.* Received: .*a.txt"),
        ("a.jsonl", '{"a": 1}\n[1]', r"line 2 of .*a.jsonl', which is \[1\]"),
        ("a.jsonl", '{"a": 1}\n{"a"', "line 2 of .*a.jsonl': Expecting"),
        ("a.json", '{"a": 1}', "must be a list of objects. Received: .*{'a': 1}"),
        ("a.json", "[", "must be JSON. Received"),
        ("a.csv", "a,b\n1,2,3\n", "must have 2 cells.* line 2: "),
        ("a.csv", "a,b\n1\n", "must have 2 cells.* line 2: "),
        ("a.csv", 'a,b\n1,"2\n', "must be CSV. Received: after line 1"),
        ("a.csv", "a,b\n", "at least one row. Received: .*a.csv"),
        ("a.csv", 'images\n"[1"\n', "must be a JSON list. Received: '.1'"),
    ],
)
def test_errors(name, text, message, tmp_path):
    write(tmp_path / name, text)
    with pytest.raises(ValueError) as found:
        read_rows(tmp_path / name)
    assert re.search(message, str(found.value)), found.value


def test_other_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of rows. Received: .*a.csv"):
        read_rows(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="must be text in UTF-8. Received: .*a.csv"):
        read_rows(write(tmp_path / "a.csv", "a\nü\n", "latin-1"))


def test_parquet_needs_a_library(monkeypatch, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install 'keras-t5gemma2.finetune.'"):
        read_rows(tmp_path / "a.parquet")


def test_checked_columns():
    assert checked_columns({}) is None and checked_columns({"a": "images"}) == {"a": "images"}
