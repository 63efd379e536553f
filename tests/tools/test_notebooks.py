"""Notebooks are their scripts, and what these print."""

import json

import notebooks
import pytest

pytestmark = pytest.mark.once
SCRIPT = """# %% [markdown]
# # Numbers
#
# They add up.

# %%
import matplotlib

matplotlib.use("Agg")  # as in the guides
print(40 + 2)
object()
# %% a title
(7,)
"""
PICTURES = ("image/png", "text/html")
MADE = sorted(notebooks.GUIDES.glob("*.ipynb"))


def test_cells():
    (kind, text), *code = notebooks.cells_of(SCRIPT, "01_a")
    assert kind == "markdown" and text.startswith("# Numbers\n\n[Open in Colab](https://colab.")
    assert text.endswith("\n\nThey add up.") and "/guides/01_a.ipynb" in text
    assert code == [("code", "print(40 + 2)\nobject()"), ("code", "(7,)")]


def test_a_notebook_has_what_its_script_prints(tmp_path):
    pytest.importorskip("nbclient")
    path = tmp_path / "01_a.py"
    path.write_text(
        SCRIPT.replace("matplotlib", "math").replace('math.use("Agg")  # as in the guides\n', "")
    )
    notebooks.write(path)
    notebook = json.loads((tmp_path / "01_a.ipynb").read_text())
    (printed,) = notebook["cells"][1]["outputs"]
    assert printed["text"] == "42\n"
    assert "This run took " in notebook["cells"][0]["source"]
    assert not notebooks.is_old(path)
    path.write_text(path.read_text().replace("40 + 2", "40 + 3"))
    assert notebooks.is_old(path) and notebooks.main(["--check", str(path)]) == 1


def test_of_a_bar_of_progress_its_end_is_kept():
    bar = ["\r\x1b[1m1/2\x1b[0m ━", "\b\r\x1b[1m2/2\x1b[0m ━━\n", "done\r\nand more\n"]
    picture = {"output_type": "display_data", "data": {"image/png": "a"}}
    stream = {"output_type": "stream", "name": "stdout"}
    found = notebooks._joined([{**stream, "text": text} for text in bar] + [picture])
    assert found == [{**stream, "text": "2/2 ━━\ndone\r\nand more\n"}, picture]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_the_notebooks_of_the_guides(path):
    assert not notebooks.is_old(path.with_suffix(".py"))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not any("\x1b" in "".join(output.get("text", "")) for output in outputs)
    assert outputs and not any(output["output_type"] == "error" for output in outputs)
    sources = "".join("".join(cell["source"]) for cell in cells)
    pictures = [data for output in outputs for data in output.get("data", {}) if data in PICTURES]
    assert len(pictures) >= sources.count(".savefig(")
