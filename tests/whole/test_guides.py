"""The guides run as they are, and the long ones shortened too."""

import re
import runpy
import subprocess
import sys

import keras
import pytest
from repository import ROOT, environment

GUIDES = ROOT / "guides"


def run(guide, directory, **shorter):
    """What a guide prints; with `shorter`, after some of its text was replaced."""
    path = GUIDES / guide
    text = path.read_text(encoding="utf-8")
    for old, new in shorter.items():
        assert old in text
        text = text.replace(old, new)
    (directory / guide).write_text(text, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, guide],
        env=environment(KERAS_BACKEND=keras.config.backend()),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.once
def test_generate(tmp_path, monkeypatch, capsys):
    """In this process, which has what it imports."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(GUIDES / "01_generate.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "Spell 4268 in English. → four thousand, two hundred and sixty-eight" in output
    assert "Write 2026-12-17 in French. → 17 décembre 2026" in output
    assert "[image][image]Which number is this? → 42" in output


@pytest.mark.slow
@pytest.mark.once
def test_a_few_steps_of_finetune(tmp_path):
    shorter = {"epochs, batch_size = 4, 64": "epochs, batch_size = 1, 64", "2_000": "128"}
    output = run("02_finetune.py", tmp_path, **{**shorter, "2_200": "148"})
    assert "base weights unchanged: True" in output
    assert (tmp_path / "finetune_loss.png").stat().st_size > 10_000


@pytest.mark.slow
def test_finetune(tmp_path):
    """A language that the model has never seen, in less than five minutes."""
    output = run("02_finetune.py", tmp_path)
    model, base = (row_of(output, name) for name in ("model", "base"))
    assert base["exact_match"] < 10 and model["exact_match"] > 80
    assert "base weights unchanged: True" in output
    assert int(re.search(r"done in (\d+) s", output)[1]) < 300


@pytest.mark.slow
@pytest.mark.once
def test_a_few_steps_of_images(tmp_path):
    shorter = {"epochs, batch_size = 8, 50": "epochs, batch_size = 1, 50", "3_000": "100"}
    output = run(
        "03_images.py", tmp_path, **{**shorter, "pairs(held_out, 200)": "pairs(held_out, 8)"}
    )
    assert "an epoch with features takes" in output


@pytest.mark.slow
@pytest.mark.once
def test_a_few_steps_of_classify(tmp_path):
    shorter = {"epochs, batch_size = 6, 32": "epochs, batch_size = 1, 32", "2_400": "64"}
    shorter |= {"2_800": "128", "3_000": "64", "3_500": "128", "sentences(640": "sentences(64"}
    output = run("12_classify.py", tmp_path, **{**shorter, "epochs=3": "epochs=1"})
    assert "words with countries never seen" in output


@pytest.mark.slow
def test_images(tmp_path):
    output = run("03_images.py", tmp_path)
    assert row_of(output, "base")["exact_match"] < 20
    assert row_of(output, "model")["exact_match"] > 60


def row_of(output, name):
    """The numbers of one line of the table that an `Evaluation` prints."""
    lines = output.splitlines()
    (place,) = (i for i, line in enumerate(lines) if re.match(rf"{name} +\d", line))
    header = next(line for line in reversed(lines[:place]) if line.strip().startswith("rows"))
    return dict(zip(header.split(), map(float, lines[place].split()[1:]), strict=True))


@pytest.mark.slow
def test_attention(tmp_path):
    """Each digit looks at its own picture."""
    output = run("10_attention.py", tmp_path)
    shares = re.findall(r"'[42]' looks at the pictures with ([\d.]+) and ([\d.]+)", output)
    assert len(shares) == 4
    for (own, other), (other_again, own_again) in (shares[:2], shares[2:]):
        assert float(own) > float(other) and float(own_again) > float(other_again)
    assert (tmp_path / "attention.png").stat().st_size > 10_000


@pytest.mark.real
@pytest.mark.once
@pytest.mark.slow
def test_a_few_steps_of_adapting_gemma3(tmp_path):
    output = run(
        "04_adapt_gemma3.py", tmp_path, **{"default=50": "default=2", "default=24": "default=2"}
    )
    assert all(0 < loss < 20 for loss, _ in adapted(output))


@pytest.mark.real
@pytest.mark.slow
def test_adapting_gemma3(tmp_path):
    output = run("04_adapt_gemma3.py", tmp_path)
    (loss, similar), (loss_after, similar_after) = adapted(output)
    assert loss_after < 0.5 * loss
    assert similar_after > similar + 20


def adapted(output):
    """Loss and chrF before and after."""
    found = re.findall(r"(before|after): loss ([\d.]+) .* chrF ([\d.]+) on", output)
    assert [name for name, *_ in found] == ["before", "after"]
    return [(float(loss), float(similar)) for _, loss, similar in found]


@pytest.mark.slow
@pytest.mark.once
def test_training_options(tmp_path):
    output = run("05_training_options.py", tmp_path)
    first, last = re.search(r"kept apart: ([\d.]+), then ([\d.]+)", output).groups()
    assert float(last) < 0.5 * float(first)
    assert "LossScaleOptimizer: loss times" in output
    assert int(re.search(r"\nbefore: (\d+)% right", output)[1]) < 20
    assert int(re.search(r"\nafter: (\d+)% right", output)[1]) > 80
    assert (tmp_path / "training_options.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.once
def test_a_few_steps_of_instructions(tmp_path):
    shorter = {"range(3_000)": "range(20)", "range(200)": "range(8)"}
    output = run("09_instructions.py", tmp_path, **{**shorter, "size = 5, 32": "size = 1, 32"})
    assert "  you: And in German?\nmodel: " in output
    assert (tmp_path / "instructions.png").stat().st_size > 10_000


@pytest.mark.slow
def test_instructions(tmp_path):
    """Dialogues about values that no training has seen."""
    output = run("09_instructions.py", tmp_path)
    before, after = (
        float(re.search(rf"{name}:.* all ([\d.]+)", output)[1]) for name in ("before", "after")
    )
    assert before < 0.3 and after >= 0.9
    assert float(re.search(r"whole dialogues: ([\d.]+)", output)[1]) >= 0.85


@pytest.mark.real
@pytest.mark.once
@pytest.mark.slow
def test_gemma3_weights(tmp_path):
    assert "Mars, Jupiter, Saturn" in run("06_gemma3_weights.py", tmp_path)


@pytest.mark.slow
@pytest.mark.once
def test_a_few_steps_of_embeddings(tmp_path):
    shorter = {"epochs, batch_size = 3": "epochs, batch_size = 1"}
    output = run("08_embeddings.py", tmp_path, **shorter)
    assert "epoch 1: loss" in output
    assert (tmp_path / "embeddings_map.png").stat().st_size > 10_000


@pytest.mark.slow
def test_embeddings(tmp_path):
    """Held-out names lie nearest to a name of the same thing."""
    output = run("08_embeddings.py", tmp_path)
    after, before = re.search(r"after: ([\d.]+)% \(before: ([\d.]+)%\)", output).groups()
    assert float(before) < 50 and float(after) >= 90


@pytest.mark.slow
@pytest.mark.once
def test_vocabulary(tmp_path):
    """Fewer tokens give the same answers, and new ones are learned and exported."""
    output = run("11_vocabulary.py", tmp_path)
    assert "but now" not in output
    assert output.count("['Zahnärztin', 'Krankenversicherung']") == 2


@pytest.mark.slow
@pytest.mark.once
def test_documents(tmp_path):
    """Parts of an image say what the whole, scaled down, does not."""
    output = run("13_documents.py", tmp_path)
    without, with_parts = map(float, re.findall(r"\nafter: ([\d.]+) %", output))
    assert with_parts > without + 20
    for name in ("inputs", "loss"):
        assert (tmp_path / f"documents_{name}.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.once
def test_summaries(tmp_path):
    output = run("14_summaries.py", tmp_path)
    exact = re.findall(r"(before|after), (\d+) sentences: (\d+) % exact", output)
    assert all(int(found) < 5 for name, _, found in exact if name == "before")
    assert int(dict((length, found) for _, length, found in exact)["8"]) > 50
    assert "of which the first 64 are read" in output


@pytest.mark.slow
@pytest.mark.once
def test_several_devices(tmp_path):
    """It sets its backend and its devices itself."""
    output = run("15_several_devices.py", tmp_path)
    assert output.count("the same on all: True") == 4
    sizes = list(map(float, re.findall(r": ([\d.]+) MB on a device", output)))
    assert sizes[0] == sizes[1] > 1.5 * sizes[2] and sizes[3] < 0.4 * sizes[0]


@pytest.mark.slow
@pytest.mark.once
def test_longer_texts(tmp_path):
    """A model of 512 tokens fails at 2,048, until its positions are divided by 4."""
    output = run("16_longer_texts.py", tmp_path)
    rows = re.findall(r"\n\s+(factor \d(?:, tuned)?) ([\d% ]+)%", output)
    shares = {name: list(map(int, found.replace("%", "").split())) for name, found in rows}
    assert list(shares) == ["factor 1", "factor 2", "factor 4", "factor 4, tuned"]
    assert min(shares["factor 1"][:2]) > 90 and shares["factor 1"][3] < 50
    assert min(shares["factor 4, tuned"]) > 90
    assert (tmp_path / "longer_texts.png").stat().st_size > 10_000
