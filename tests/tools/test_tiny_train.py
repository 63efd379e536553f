"""The tool that trains the embedded preset, for a few steps, and the data that it trains on."""

import argparse
import sys

import data
import keras
import numpy as np
import pytest
import train

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def sampler():
    return data.Sampler(data.Digits())


@pytest.fixture(scope="module")
def tokenizer(sampler, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train.train_tokenizer(path, sampler, seed=0, examples=6_000)


def arguments(tmp_path, **changes):
    values = {
        "output": str(tmp_path / "preset"),
        "steps": 4,
        "epoch_steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "seed": 3,
        "quiet": True,
    }
    return argparse.Namespace(**{**values, **changes})


def test_no_training_example_holds_a_held_out_value(sampler, monkeypatch):
    """Seen where facts are made, so that no task and no gap can slip one in."""
    numbers, days = set(), set()
    spell, write_date = data.spell, data.write_date
    monkeypatch.setattr(data, "spell", lambda n, x: numbers.add(n) or spell(n, x))
    monkeypatch.setattr(data, "write_date", lambda d, x: days.add(d) or write_date(d, x))
    rng = np.random.default_rng(0)
    for _ in range(6_000):
        sampler.text(rng)
    for count in (1, 2, 3):
        for _ in range(300):
            sampler.images(rng, count)
    assert len(numbers) > 1_000 and len(days) > 1_000
    assert not any(data.is_held_out("number", number) for number in numbers)
    assert not any(data.is_held_out("date", day) for day in days)


def test_the_split_is_fixed(sampler):
    held_out = [n for n in range(10_000) if data.is_held_out("number", n)]
    assert (len(held_out), held_out[:3]) == (500, [10, 12, 44])
    digits = sampler.digits
    assert (len(digits.held_out), digits.held_out[:3]) == (242, [4, 10, 18])
    assert not set(digits.held_out) & set(digits.training)


def test_evaluation_examples_are_held_out():
    examples = data.held_out_examples(50)
    for example in examples["number spelling"]:
        assert data.is_held_out("number", int(example.encoder_text.split()[1]))
    for example in examples["date formatting"]:
        assert data.is_held_out("date", example.encoder_text.split()[1])


def test_no_text_is_in_the_language_left_out(sampler):
    assert data.LEFT_OUT not in (*data.LANGUAGES, *data.SPELLED_LANGUAGES)


def test_gaps_restore_the_statement():
    rng = np.random.default_rng(0)
    example = data.spelling(4217, "fr")
    for _ in range(50):
        row = data.infilling(example, rng)
        text = row.encoder_text
        spans = row.decoder_text
        for sentinel in reversed(data.SENTINELS):
            if sentinel in spans:
                spans, span = spans.split(sentinel)
                text = text.replace(sentinel, span.strip())
        assert text == "4217 = French quatre mille deux cent dix-sept"


def test_the_tokenizer_keeps_every_text(tokenizer, sampler):
    assert tokenizer.vocabulary_size() == train.VOCABULARY_SIZE
    rng = np.random.default_rng(1)
    for text in [*(sampler.text(rng).decoder_text for _ in range(200)), "日本 🦒 žluť"]:
        assert tokenizer.detokenize(tokenizer(text)) == text
    roles = ("pad", "end", "start", "start_of_image", "end_of_image", "image")
    ids = [getattr(tokenizer, f"{role}_token_id") for role in roles]
    assert ids[:3] == [0, 1, 2] and None not in ids


@pytest.mark.slow
def test_training_goes_on_where_it_was_interrupted(tokenizer, sampler, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def trained(work, *callbacks):
        keras.utils.set_random_seed(3)
        lm = train.tiny_model(tokenizer)
        train.train(lm, sampler, tmp_path / work, arguments(tmp_path), callbacks)
        return lm

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", Stop())
    parts = trained("parts")
    for a, b in zip(whole.backbone.weights, parts.backbone.weights, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), rtol=1e-6, atol=1e-7
        )


@pytest.mark.slow
def test_the_command_writes_a_preset(tokenizer, tmp_path, monkeypatch):
    work, preset = tmp_path / "work", tmp_path / "preset"
    work.mkdir()
    tokenizer.save_assets(work)
    (work / "vocabulary.model").rename(work / "tokenizer.model")
    options = f"--output {preset} --work-directory {work} --steps 2 --epoch-steps 2 --batch-size 2"
    monkeypatch.setattr(sys, "argv", ["train.py", *options.split(), "--quiet"])
    train.main()
    lm = T5Gemma2Seq2SeqLM.from_preset(str(preset))
    assert lm.backbone.config == train.tiny_model(tokenizer).backbone.config
    # in bfloat16, read as float32
    assert lm.backbone.compute_dtype == "float32"
    values = keras.ops.convert_to_numpy(lm.backbone.token_embedding.embeddings)
    assert values.dtype == "float32" and not (values.view("uint32") & 0xFFFF).any()
    assert (preset / "model.weights.h5").stat().st_size < 2.3 * lm.backbone.count_params()
