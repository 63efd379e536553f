"""Rows of the tasks in this folder: numbers, dates and digits that no training example has.

They need the extra `tiny`, whose libraries spell the answers, and are made anew each time.
"""

import functools
import pathlib
import sys

import datasets
import PIL.Image

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tiny"))
import data

_ROWS = 200


def numbers(**_):
    return _split("number spelling")


def dates(**_):
    return _split("date formatting")


def digits(**_):
    return _split("number from two images")


def spellings(**_):
    """Four spellings of which the first is right, and the others are those of other rows."""
    rows = list(numbers()["test"])
    answers = [row["answer"] for row in rows]
    for i, row in enumerate(rows):
        others = (answers[(i + step) % len(rows)] for step in range(1, len(rows)))
        wrong = list(dict.fromkeys(text for text in others if text != row["answer"]))
        row["choices"] = [row["answer"], *wrong[:3]]
    return {"test": datasets.Dataset.from_list(rows)}


def images(doc):
    """The images of a row, which a data set cannot hold."""
    return [PIL.Image.fromarray(image) for image in _examples()[doc["task"]][doc["row"]].images]


def _split(task):
    rows = [
        {
            "question": example.encoder_text.replace(data.IMAGE, "<image>"),
            "answer": example.decoder_text,
            "task": task,
            "row": row,
        }
        for row, example in enumerate(_examples()[task])
    ]
    return {"test": datasets.Dataset.from_list(rows)}


@functools.cache
def _examples():
    return data.held_out_examples(_ROWS)
