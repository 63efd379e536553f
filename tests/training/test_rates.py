"""What `fit` logs beside the loss: the learning rate of a step and tokens per second."""

import types

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.training import rates

LOGGED = {"loss", "accuracy", "perplexity", "learning_rate", "tokens_per_second"}


@pytest.fixture(scope="module")
def lm():
    return small_task()


class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


@pytest.fixture
def clock(monkeypatch):
    """Each look at it is a second later."""
    seconds = iter(range(1000))
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr(rates, "time", clock)


def tokens(lm, rows):
    x, _, _ = lm.preprocessor(rows)
    return [
        int(x["encoder_padding_mask"][i].sum() + x["decoder_padding_mask"][i].sum())
        for i in range(len(rows["encoder_text"]))
    ]


@pytest.mark.once
def test_steps_and_epochs_log_rates(lm, clock, capsys):
    """A schedule's value is that of the step; tokens are those that are no padding."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2], [0.5, 0.25, 0.125, 1.0])
    lm.compile(optimizer=keras.optimizers.SGD(schedule))
    logs = Logs()
    options = {"batch_size": 1, "shuffle": False, "callbacks": [logs], "verbose": 1}
    history = lm.fit(SMALL_ROWS, validation_data=SMALL_ROWS, epochs=2, **options).history

    assert [step["learning_rate"] for step in logs.steps] == [0.5, 0.25, 0.125, 1.0]
    assert history["learning_rate"] == [0.25, 1.0]
    first, second = tokens(lm, SMALL_ROWS)
    assert first != second
    wanted = [first, (first + second) / 2] * 2
    np.testing.assert_allclose([step["tokens_per_second"] for step in logs.steps], wanted)
    np.testing.assert_allclose(history["tokens_per_second"], wanted[1::2])
    validated = {"val_loss", "val_accuracy", "val_perplexity"}
    assert set(history) == LOGGED | validated
    assert all(set(step) == LOGGED for step in logs.steps)
    assert all(set(epoch) == LOGGED | validated for epoch in logs.epochs)
    shown = capsys.readouterr().out
    assert "learning_rate" in shown and "tokens_per_second" in shown


@pytest.mark.once
def test_rows_that_weigh_nothing_do_not_count(lm, clock):
    lm.compile(optimizer="sgd")
    options = {"batch_size": 2, "verbose": 0}
    history = lm.fit(SMALL_ROWS, sample_weight=np.array([0.0, 1.0]), **options).history
    np.testing.assert_allclose(history["tokens_per_second"], tokens(lm, SMALL_ROWS)[1])
    history = lm.fit(SMALL_ROWS, **options).history
    np.testing.assert_allclose(history["tokens_per_second"], sum(tokens(lm, SMALL_ROWS)))


@pytest.mark.once
def test_a_rate_that_is_set_and_one_that_scales_the_loss(lm):
    lm.compile(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125)))
    assert lm.fit(SMALL_ROWS, verbose=0).history["learning_rate"] == [0.125]
    lm.compile(optimizer=keras.optimizers.SGD(0.125))
    lm.optimizer.learning_rate = 0.25
    assert lm.fit(SMALL_ROWS, verbose=0).history["learning_rate"] == [0.25]


@pytest.mark.once
def test_a_list_of_callbacks_of_the_users_own(lm):
    lm.compile(optimizer="sgd")
    logs = Logs()
    callbacks = keras.callbacks.CallbackList([logs], add_history=True, model=lm, epochs=1, steps=1)
    history = lm.fit(SMALL_ROWS, callbacks=callbacks, verbose=0).history
    assert set(history) == set(logs.steps[0]) == LOGGED


@pytest.mark.once
def test_other_methods_give_what_they_gave(lm):
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    wanted = lm.evaluate(SMALL_ROWS, verbose=0)
    assert len(wanted) == 3
    np.testing.assert_allclose(lm.train_on_batch(SMALL_ROWS), wanted, rtol=1e-5)
    found = lm.train_on_batch(SMALL_ROWS, return_dict=True)
    assert set(found) == {"loss", "accuracy", "perplexity"}


@pytest.mark.once
def test_a_loss_of_the_users_own(lm):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    lm.compile(optimizer=keras.optimizers.SGD(0.125), loss=loss, weighted_metrics=[])
    history = lm.fit(SMALL_ROWS, verbose=0).history
    assert set(history) == {"loss", "learning_rate", "tokens_per_second"}
    assert np.ndim(lm.train_on_batch(SMALL_ROWS)) == 0
