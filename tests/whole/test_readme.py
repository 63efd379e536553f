"""The README's examples, from the first to the last: each does what the text around it says."""

import pathlib
import re

import numpy as np
import pages
import pytest
from repository import ROOT

import keras_t5gemma2

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.write_files()
    return pages.Reader("README.md")


def test_the_first_example_answers_and_is_silent(reader, capfd):
    answers = "['viertausendzweihundertachtundsechzig', '17 दिसंबर 2026']"
    assert reader.run("Spell 4268").strip() == answers
    assert f"```\n{answers}\n```" in README
    said = capfd.readouterr().err
    assert "AutoGraph" not in said and "Warning" not in said, said


def test_it_is_short():
    assert len(README.splitlines()) <= 150
    assert len(re.findall(r"^!\[", README, re.M)) == 3


@pytest.mark.once
def test_all_examples_one_after_another(reader):
    """One story, as the examples share their names."""
    reader.run("Spell 4268")
    reader.run('of France is", max_new_tokens')
    reader.run('"images": "cat.png"')
    reader["lm"].compile(sampler="greedy")
    evaluation = reader.run("lm.enable_lora(rank=16, alpha=32)")
    assert "exact_match" in evaluation
    assert re.fullmatch(r"\d{1,2} [a-z]+ \d{4}", reader.run("constraints.regex(").rstrip("\n"))
    similarity = reader.run("embedder.similarity(").strip()
    table = np.array(re.findall(r"[-+\d.e]+", similarity), "float64").reshape(3, 3)
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)
    assert reader["embedder"].backbone.decoder is None
    reader.run('lm.save_to_preset("my_model")')
    for directory in ("my_model", "for_torch", "for_keras_hub"):
        keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(directory)
        assert pathlib.Path(directory, "README.md").is_file()
    assert reader.left() == []
