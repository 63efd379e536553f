"""Defaults that learn: what `fit` trains with where nobody has named an optimizer."""

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.training.default_optimizer import default_rate

_WORDS = ("yksi", "kaksi", "kolme", "neljä", "viisi", "kuusi", "seitsemän", "kahdeksan")
# Nothing that the embedded preset has seen: a language, and an order of the digits.
FINNISH = {
    "encoder_text": [f"Spell {n + 1}{m + 1} in Finnish." for n in range(8) for m in range(8)],
    "decoder_text": [f"{m}-{n}" for n in _WORDS for m in _WORDS],
}


def _fit_embedded(epochs, **lora):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    if lora:
        lm.enable_lora(**lora)
    lm.compile(sampler="greedy")  # names no optimizer
    return lm.fit(FINNISH, epochs=epochs, batch_size=16, verbose=0).history["loss"]


@pytest.mark.once
def test_adapters_halve_the_loss_of_the_embedded_preset():
    losses = _fit_embedded(3, rank=16, alpha=32)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@pytest.mark.once
def test_all_weights_halve_the_loss_of_the_embedded_preset():
    losses = _fit_embedded(3)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.once
def test_rates_follow_the_width_and_are_ten_times_higher_for_adapters():
    assert default_rate(4096, of_adapters=False) == pytest.approx(2e-5)
    assert default_rate(4096, of_adapters=True) == pytest.approx(2e-4)
    assert default_rate(640, of_adapters=True) == pytest.approx(8.5e-4, rel=0.01)


@pytest.mark.once
def test_the_rate_of_adapters_comes_and_goes_with_them_and_is_said(capsys):
    lm = small_task()
    lm.compile(sampler="greedy")
    width = lm.backbone.config.decoder.hidden_dim
    of_all, of_adapters = (default_rate(width, choice) for choice in (False, True))
    assert _rate(lm) == pytest.approx(of_all)
    lm.fit(SMALL_ROWS, verbose=0)
    capsys.readouterr()
    lm.enable_lora(rank=2, target=["query"])
    assert isinstance(lm.optimizer, keras.optimizers.AdamW)
    assert lm.optimizer.global_clipnorm == 1.0 and lm.optimizer.iterations == 0
    assert _rate(lm) == pytest.approx(of_adapters)
    assert f"'default' trains with AdamW and a learning rate of {of_adapters:.2g}" in (
        capsys.readouterr().err
    )
    lm.compile(sampler="top_k")
    assert _rate(lm) == pytest.approx(of_adapters)
    lm.fit(SMALL_ROWS, verbose=0)
    lm.remove_adapter("default")
    assert _rate(lm) == pytest.approx(of_all)


@pytest.mark.once
def test_an_optimizer_of_the_users_own_stays(capsys):
    lm = small_task()
    lm.compile(optimizer=keras.optimizers.SGD(0.25))
    lm.enable_lora(rank=2, target=["query"])
    lm.fit(SMALL_ROWS, verbose=0)
    assert isinstance(lm.optimizer, keras.optimizers.SGD) and _rate(lm) == 0.25
    assert "learning rate" not in capsys.readouterr().err


@pytest.mark.once
def test_the_loss_stays_scaled_in_half_precision():
    lm = small_task(dtype="mixed_float16")
    lm.compile(sampler="greedy")
    lm.enable_lora(rank=2, target=["query"])
    assert isinstance(lm.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(lm.fit(SMALL_ROWS, verbose=0).history["loss"][0])


def _rate(lm):
    return float(keras.ops.convert_to_numpy(lm.optimizer.learning_rate))
