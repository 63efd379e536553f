"""`.keras` files: the optimizer's state and the sampler come back with the model."""

import keras
import keras_hub
import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import BeamSearch


def revived(lm, path):
    lm.save(path / "task.keras")
    return keras.saving.load_model(path / "task.keras")


@pytest.mark.once
def test_training_goes_on_where_it_was(tmp_path, recwarn):
    lm = small_task()
    lm.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.7)),
        sampler=keras_hub.samplers.TopKSampler(k=3, temperature=7.0, seed=5),
    )
    options = {"verbose": 0, "shuffle": False}
    lm.fit(SMALL_ROWS, epochs=3, **options)
    lm.generate("the cat", max_new_tokens=5)
    other = revived(lm, tmp_path)
    assert not [w for w in recwarn if "compile" in str(w.message) or "optim" in str(w.message)]

    assert int(other.optimizer.iterations) == 3
    assert type(other.sampler) is keras_hub.samplers.TopKSampler
    assert other.sampler.get_config() == lm.sampler.get_config()
    # Its random numbers go on as well.
    texts = [task.generate("the cat", max_new_tokens=9) for task in (lm, other)]
    assert texts[0] == texts[1]
    losses = [task.fit(SMALL_ROWS, epochs=3, **options).history for task in (lm, other)]
    assert losses[0].keys() == losses[1].keys()
    np.testing.assert_allclose(losses[1]["loss"], losses[0]["loss"], rtol=1e-5)


@pytest.mark.once
def test_what_was_compiled_with_comes_back(tmp_path):
    lm = small_task()
    lm.compile(
        optimizer="sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="mine")],
        sampler=BeamSearch(num_beams=3, length_penalty=0.5),
    )
    other = revived(lm, tmp_path)
    assert other.sampler.get_config() == lm.sampler.get_config()
    want, got = (task.evaluate(SMALL_ROWS, verbose=0, return_dict=True) for task in (lm, other))
    assert "mine" in want and want.keys() == got.keys()
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)


@pytest.mark.once
def test_a_changed_sampler_and_the_default_optimizer_come_back(tmp_path):
    lm = small_task()
    lm.compile(sampler="greedy")
    lm.sampler = keras_hub.samplers.TopPSampler(p=0.3, seed=1)
    lm.sampler.p = 0.4
    other = revived(lm, tmp_path)
    assert other.sampler.p == 0.4 and not other.optimizer.built
    assert type(other.optimizer) is type(lm.optimizer)
    rate = float(other.optimizer.learning_rate)
    other.enable_lora(rank=2)  # which makes the default one anew, with a rate for adapters
    assert float(other.optimizer.learning_rate) > rate
    assert lm.get_compile_config()["loss"] == "auto"


@pytest.mark.once
def test_a_model_that_is_loaded_without_compiling_is_not_compiled(tmp_path):
    lm = small_task()
    lm.save(tmp_path / "task.keras")
    other = keras.saving.load_model(tmp_path / "task.keras", compile=False)
    other.compile(sampler="greedy")
    assert other.generate("the cat", max_new_tokens=3) == lm.generate("the cat", max_new_tokens=3)
