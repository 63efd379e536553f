"""The README's examples, from the first to the last: each does what the text around it says.

Published weights are behind their terms: the embedded preset takes their place, with lengths that
its examples need.
"""

import contextlib
import io
import pathlib
import re
import warnings

import keras
import numpy as np
import PIL.Image
import pytest
from repository import ROOT
from sklearn.datasets import load_digits

import keras_t5gemma2

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M)
TINY = '"t5gemma2_tiny", encoder_sequence_length=4096, decoder_sequence_length=512'
REPLACED = {
    '"t5gemma2_270m_270m", dtype="bfloat16"': TINY,
    '"t5gemma2_270m_270m", load_weights=False': f"{TINY}, load_weights=False",
    '"t5gemma2_1b_1b"': TINY,
    'from_gemma3("gemma-3-270m.gguf")': f"from_preset({TINY})",
}
# Need another process, several hosts or an account.
ELSEWHERE = (
    "KERAS_BACKEND",
    "keras.distribution.initialize",
    "push_to_hub",
    "distribution.distribute(",
)
DOCUMENT = "The contract is between the buyer and the seller. " * 40


class Reader:
    """Somebody who types one example after another."""

    def __init__(self):
        self.names, self.read = {}, []

    def run(self, words):
        """Runs the one example with these words in it, and gives what it prints.

        Errors if it writes anything to stderr but what compiles, or warns.
        """
        (number,) = (i for i, text in enumerate(EXAMPLES) if words in text)
        text = EXAMPLES[number]
        for published, embedded in REPLACED.items():
            text = text.replace(published, embedded)
        self.read.append(number)
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            warnings.filterwarnings("error", category=UserWarning)
            exec(compile(text, f"<example {number}>", "exec"), self.names)
        return printed.getvalue()

    def __getitem__(self, name):
        return self.names[name]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    seven = digits.images[list(digits.target).index(7)]
    PIL.Image.fromarray((seven * 15.9).astype("uint8")).save("seven.png")
    PIL.Image.fromarray((seven.T * 15.9).astype("uint8")).save("cat.png")
    pathlib.Path("contract.txt").write_text(DOCUMENT)
    return Reader()


def test_the_first_example_answers_and_is_silent(reader, capfd):
    answers = "['viertausendzweihundertachtundsechzig', '17 दिसंबर 2026']"
    assert reader.run("Spell 4268").strip() == answers
    assert f"```\n{answers}\n```" in README
    said = capfd.readouterr().err
    assert "AutoGraph" not in said and "Warning" not in said, said


@pytest.fixture
def histories(monkeypatch):
    """The `History` of each `fit`."""
    found, fit = [], keras_t5gemma2.T5Gemma2Seq2SeqLM.fit

    def keeping(self, *args, **kwargs):
        found.append(fit(self, *args, **kwargs).history)
        return found[-1]

    monkeypatch.setattr(keras_t5gemma2.T5Gemma2Seq2SeqLM, "fit", keeping)
    return found


@pytest.mark.once
def test_all_examples_one_after_another(reader, histories):
    """One story, as the examples share their names."""
    reader.run("Spell 4268")
    assert reader.run('of France is", max_new_tokens').strip()
    reader.run('"images": "cat.png"')
    _check_that_images_count(reader["lm"], reader["prompt"])
    batch = eval(reader.run("Rain in Spain"))
    assert len(batch) == 2 and batch[0].startswith("a") and batch[1]

    reader.run("T5Gemma2Seq2SeqLM = keras_t5gemma2.T5Gemma2Seq2SeqLM")
    assert reader["text"].backbone.vision is None and reader["lm"].backbone.vision is not None
    tables = [reader[name].backbone.token_embedding.embeddings for name in ("fresh", "adapted")]
    assert np.abs(np.subtract(*map(keras.ops.convert_to_numpy, tables))).max() > 0.01
    reader.run('lm.save_to_preset("my_model")')
    _check_what_is_shared(reader["lm"])

    texts = reader.run("encoded = lm.encode(document)")
    lm = reader["lm"]
    positions = keras.ops.convert_to_numpy(reader["encoded"].memory.positions)
    assert (positions >= 0).sum() == len(lm.preprocessor.tokenizer(DOCUMENT)) + 1
    prompted, haikus = map(eval, texts.strip().splitlines())
    assert [text.split()[0] for text in prompted] == ["In", "The"] and len(haikus) == 4
    assert reader.run('lm.stream("Once upon a time")').strip()

    lines = reader.run("constraints.regex(").rstrip().split("\n")
    assert re.fullmatch(r"\d{1,2} [a-z]+ \d{4}", lines[-2])
    assert len(reader["lm"].score_tokens("(a) or (b)?", ["a", "b"]).logits) == 2
    reader.run("lm.chat(messages")
    assert histories[-1]["loss"][-1] < histories[-1]["loss"][0]
    similarity = reader.run("embedder.similarity(").strip()
    assert similarity.count("1.") >= 3 and reader["embedder"].backbone.decoder is None
    assert reader.run("classifier.predict([").strip().endswith("[0 1]")

    reader.run('"images": ["seven.png", None]')
    assert histories[-1]["loss"][-1] < histories[-1]["loss"][0]
    evaluation = reader.run("lm.enable_lora(rank=16, alpha=32)")
    assert histories[-1]["loss"][-1] < 0.5 * histories[-1]["loss"][0]
    assert pathlib.Path("adapter.safetensors").stat().st_size > 10_000
    assert "exact_match" in evaluation

    reader.run("Distillation(base)")
    assert len(histories) >= 5 and all(np.isfinite(h["loss"]).all() for h in histories)
    reader.run('lm.quantize("int8")')
    assert reader["lm"].cache_dtype == "int8"
    assert set(reader["lm"].backbone.quantized_layers.values()) == {"int4/32"}
    _check_distribution(reader)
    left = [text for i, text in enumerate(EXAMPLES) if i not in reader.read]
    assert [text for text in left if not any(words in text for words in ELSEWHERE)] == []


def _check_that_images_count(lm, prompt):
    with_another = {**prompt, "images": np.zeros((9, 9, 3), "uint8")}
    scores = [lm.score({**p, "decoder_text": "7"}) for p in (prompt, with_another)]
    assert scores[0] != scores[1]


def _check_what_is_shared(lm):
    question = "Spell 4268 in German."
    answer = lm.generate(question, max_new_tokens=32)
    for directory in ("my_model", "for_torch", "for_keras_hub"):
        again = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(directory)
        again.compile(sampler="greedy")
        assert again.generate(question, max_new_tokens=32) == answer, directory
        assert pathlib.Path(directory, "README.md").is_file()


def _check_distribution(reader):
    if keras.config.backend() != "jax":
        return
    try:
        reader.run("distribution.distribute(")
    finally:
        keras.distribution.set_distribution(None)
    assert reader["lm"].generate("Spell 7 in Dutch.", max_new_tokens=4)
