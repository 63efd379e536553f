"""Makes notebooks of the guides: runs them, and keeps what they print and draw.

    pip install ".[torch,guides,notebooks]"
    KERAS_BACKEND=torch python tools/notebooks.py guides/01_generate.py

Without names, all guides. `guides/01_generate.ipynb` stands beside its script, which is the one to
edit. `--check` runs nothing, and says which notebooks are older than their scripts.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile
import time

GUIDES = pathlib.Path(__file__).resolve().parent.parent / "guides"
# Where notebooks can be opened. There is no public address yet: this is the one place for it.
REPOSITORY = "OWNER/keras-t5gemma2"
_COLAB = "https://colab.research.google.com/github/{0}/blob/main/guides/{1}.ipynb"
_KAGGLE = "https://kaggle.com/kernels/welcome?src=https://github.com/{0}/blob/main/guides/{1}.ipynb"
_MARK = re.compile(r"^# %%(?P<kind> \[markdown\])?[^\n]*\n", re.M)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# In a notebook pictures stand below their cell.
_LEFT_OUT = re.compile(r'matplotlib\.use\("Agg"\)|import matplotlib$')


def main(arguments=None):
    """Writes notebooks, or with `--check` compares them; returns the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guides", nargs="*", type=pathlib.Path, help="by default all")
    parser.add_argument("--check", action="store_true", help="compare, and run nothing")
    options = parser.parse_args(arguments)
    scripts = options.guides or sorted(GUIDES.glob("[0-9]*.py"))
    if options.check:
        old = [path for path in scripts if path.with_suffix(".ipynb").exists() and is_old(path)]
        print("\n".join(f"{path} has changed since its notebook was made" for path in old))
        return int(bool(old))
    for path in scripts:
        seconds = write(path)
        print(f"{path.with_suffix('.ipynb')}: {seconds:.0f} s", flush=True)
    return 0


def cells_of(script, name):
    """The cells of a guide: pairs of "markdown" or "code" and a text.

    Args:
        script: string, whose cells begin with `# %%` or `# %% [markdown]`.
        name: string, that of the file without its ending, for the buttons.
    """
    marks = list(_MARK.finditer(script))
    ends = [mark.start() for mark in marks[1:]] + [len(script)]
    cells = []
    for mark, end in zip(marks, ends, strict=True):
        text = script[mark.end() : end].strip("\n")
        if mark["kind"]:
            cells.append(("markdown", re.sub(r"^# ?", "", text, flags=re.M)))
        else:
            lines = [line for line in text.splitlines() if not _LEFT_OUT.match(line)]
            cells.append(("code", "\n".join(lines).strip("\n")))
    (kind, first), *rest = cells
    title, _, text = first.partition("\n")
    buttons = (
        f"[Open in Colab]({_COLAB.format(REPOSITORY, name)}) · "
        f"[Open in Kaggle]({_KAGGLE.format(REPOSITORY, name)})"
    )
    return [(kind, f"{title}\n\n{buttons}\n{text}"), *rest]


def notebook_of(cells):
    """A notebook that has not run, a dict of JSON."""
    made = []
    for number, (kind, text) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(path):
    """Runs a guide as a notebook and writes it beside its script; the seconds that it took."""
    import nbclient
    import nbformat

    cells = cells_of(path.read_text(encoding="utf-8"), path.stem)
    is_busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 1
    notebook = nbformat.from_dict(notebook_of(cells))
    with tempfile.TemporaryDirectory() as directory:  # guides write files where they run
        began = time.monotonic()
        resources = {"metadata": {"path": directory}}
        nbclient.NotebookClient(notebook, timeout=None, resources=resources).execute()
        seconds = time.monotonic() - began
        texts = json.dumps(notebook).replace(directory, "/tmp")
    found = json.loads(texts)
    _clean(found, seconds, is_busy)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".ipynb").write_text(text, encoding="utf-8")
    return seconds


def _clean(notebook, seconds, is_busy):
    """Leaves out what changes with each run and says nothing, and notes how long it took."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    notebook["metadata"]["run"] = {"seconds": round(seconds), "backend": backend}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        outputs = cell.get("outputs", [])
        cell["outputs"] = _joined(x for x in outputs if not _says_nothing(x))
        if cell["cell_type"] != "code":
            del cell["outputs"]
    first = notebook["cells"][0]
    others = ", which other programs used, too" if is_busy else ""
    cores = f"{os.cpu_count()} CPU cores{others}"
    first["source"] += f"\n\nThis run took {seconds:.0f} seconds with {backend} on {cores}."


def _joined(outputs):
    """The outputs with printed texts joined, and each bar of progress as it ended."""
    found = []
    for output in outputs:
        if output["output_type"] != "stream":
            found.append(output)
            continue
        if not found or found[-1]["output_type"] != "stream":
            found.append({**output, "text": ""})
        found[-1]["text"] += "".join(output["text"])
    for output in found:
        if output["output_type"] == "stream":
            text = _COLOUR.sub("", output["text"])
            output["text"] = re.sub(r"[^\n]*\r(?!\n)", "", text)
    return found


def _says_nothing(output):
    """Whether it is a warning, or an object that shows its address alone."""
    found = output.get("data", {})
    is_address = found.keys() == {"text/plain"} and " at 0x" in "".join(found["text/plain"])
    return output.get("name") == "stderr" or is_address


def is_old(path):
    """Whether the cells of a notebook are not those of its script."""
    notebook = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    wanted = cells_of(path.read_text(encoding="utf-8"), path.stem)
    found[0] = found[0][0], found[0][1].rpartition("\n\n")[0]
    return found != wanted


if __name__ == "__main__":
    sys.exit(main())
