"""A SavedModel of strings, run by TensorFlow alone."""

import json
import subprocess
import sys

import keras
import pytest
from repository import environment

import keras_t5gemma2
from keras_t5gemma2.export import strings
from keras_t5gemma2.export.strings import text_graph

IS_TENSORFLOW = keras.config.backend() == "tensorflow"
of_tensorflow = pytest.mark.skipif(not IS_TENSORFLOW, reason="TensorFlow alone writes it")
TEXTS = ["Spell 4268 in English.", "", "Write 2026-12-17 in Hindi.", "Spell 7 in Dutch.<eos>"]
_RUN = """
import json, sys
import tensorflow as tf, tensorflow_text
path, texts, others = sys.argv[1], *map(json.loads, sys.argv[2:])
model, errors = tf.saved_model.load(path), []
found = model.generate(tf.constant(texts))
for other in others:
    try:
        model.generate(tf.constant([other]))
        errors.append("")
    except tf.errors.InvalidArgumentError as error:
        errors.append(str(error))
assert "keras_t5gemma2" not in sys.modules
outputs = [text.decode() for text in found["outputs"].numpy()]
shape = found["token_ids"].shape.as_list()
print(json.dumps({"outputs": outputs, "shape": shape, "errors": errors}))
"""


@pytest.mark.slow
@of_tensorflow
def test_what_generate_writes(tmp_path):
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.compile(sampler="greedy")
    lm.export(tmp_path / "model", strings=True, decoder_length=33, verbose=False)
    others = json.dumps(["a <start_of_image>", "x" * 100, "short"])
    result = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path / "model"), json.dumps(TEXTS), others],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["outputs"] == lm.generate(TEXTS, max_new_tokens=32, verbose=0)
    assert found["shape"] == [len(TEXTS), 32]
    marker, long, short = found["errors"]
    assert "A text must not hold <start_of_image>" in marker
    assert "A text must have at most 64 tokens" in long
    assert short == ""


@of_tensorflow
def test_ids_that_differ_are_refused(monkeypatch):
    tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    monkeypatch.setattr(strings, "ADDED_TYPES", {4})  # control tokens are read as text
    with pytest.raises(ValueError, match="reads as the tokenizer does. Received: one of which"):
        text_graph(tokenizer, 2_560)


def test_a_tokenizer_json_is_refused():
    tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    tokenizer = keras_t5gemma2.T5Gemma2Tokenizer(tokenizer.to_tokenizer_json())
    with pytest.raises(ValueError, match="needs the vocabulary of a SentencePiece model"):
        text_graph(tokenizer, 2_560)


def test_what_cannot_be_is_refused(tmp_path):
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    with pytest.raises(TypeError, match="`strings` must be True or False. Received: strings='yes'"):
        lm.export(tmp_path / "model", strings="yes")
    if not IS_TENSORFLOW:
        message = "must be one that the backend torch|needs the backend tensorflow"
        with pytest.raises(ValueError, match=message):
            lm.export(tmp_path / "model", strings=True, encoder_length=8)
        return
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM(lm.backbone)
    with pytest.raises(ValueError, match="needs a task with a preprocessor"):
        lm.export(tmp_path / "model", strings=True, decoder_length=8)
    assert not (tmp_path / "model").exists()
